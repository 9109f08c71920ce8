"""The public conformance kit: inherit a case, name what is tested, and run it with pytest.

`RuleCase` (operator rules) is in penjing.testing.rules, `RuntimeCase` in penjing.testing.runtimes.
"""

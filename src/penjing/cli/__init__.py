"""The command line: the verbs of the front door.

Exit codes: 0 pass or done, 1 fail, 2 usage, 3 undecided, 4 an error that Penjing explains, 130 interrupted.
"""

from penjing.cli.app import main

__all__ = ["main"]

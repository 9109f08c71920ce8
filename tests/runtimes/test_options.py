"""Options as data: defaults, what is unknown, what is impossible."""

import importlib.util

import pytest

from penjing.errors import RuntimeUnavailable
from penjing.runtimes import RUNTIMES, find_runtime, missing
from penjing.runtimes.options import PRECISIONS, Option, complete

KNOWN = {"threads": Option(1), "precision": Option("fp32", PRECISIONS), "providers": Option((), values=None)}


def test_defaults_fill_in_what_is_not_given() -> None:
    assert complete("mine", {"threads": 3}, KNOWN) == {"threads": 3, "precision": "fp32", "providers": ()}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"thread": 1}, "mine has no option 'thread'; it knows threads, precision, providers"),
        ({"threads": 0}, "threads=0 must be a whole number of at least 1"),
        ({"threads": True}, "threads=True must be"),
        ({"precision": "fp8"}, "precision='fp8' is unknown; use one of fp32, bf16, fp16"),
    ],
)
def test_impossible_options_are_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=message):
        complete("mine", given, KNOWN)


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_every_runtime_records_threads_and_precision(name: str) -> None:
    runtime = find_runtime(name)
    options = runtime.options({})
    assert (options["threads"], options["precision"]) == (1, "fp32")
    assert set(options) == set(runtime.known)


@pytest.mark.parametrize("name", ["openvino", "executorch"])
def test_a_missing_runtime_is_named_with_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None if package == name else found(package))
    assert missing(RUNTIMES[name]) == [name]
    with pytest.raises(RuntimeUnavailable, match=rf"lacks {name} here; pip install 'penjing\[{name}\]' brings it"):
        find_runtime(name)

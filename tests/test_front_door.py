"""The names and signatures that are promised to users, and what `import penjing` costs."""

import inspect
import subprocess
import sys
from typing import Any

import pytest

import penjing as pj
from penjing.runtimes.base import RUNTIMES, missing

REQUIRED = inspect.Parameter.empty
HEAVY = ("onnx", "onnxruntime", "onnxscript", "scipy", "matplotlib", "jinja2", "pydantic", "typer", "rich", "torch")

# As in the design: names in order, with their defaults; "*" begins what goes by keyword only.
PROMISED: dict[str, dict[str, Any]] = {
    "Workload": {
        "model": REQUIRED,
        "example_inputs": REQUIRED,
        "train": None,
        "calibration": None,
        "evaluation": None,
        "certificate": None,
        "metric": ...,
        "loss": None,
        "unpack": None,
        "select": ...,
        "training_step": None,
        "groups": None,
        "dynamic_shapes": None,
        "device": None,
        "name": None,
        "split_seed": 0,
    },
    "apply": {
        "workload_or_model": REQUIRED,
        "recipe": REQUIRED,
        "example_inputs": None,
        "*": None,
        "runtime": None,
        "prefer": "module",
        "device": None,
        "seed": 0,
        "resume_dir": None,
        "consume": False,
        "progress": None,
    },
    "export": {
        "model": REQUIRED,
        "example_inputs": REQUIRED,
        "folder": REQUIRED,
        "runtime": "onnxruntime",
        "*": None,
        "dynamic_shapes": None,
        "options": None,
        "tolerance": None,
    },
    "load": {"path": REQUIRED},
    "mixed_precision": {
        "workload": REQUIRED,
        "contract": REQUIRED,
        "*": None,
        "scheme": "int8",
        "runtime": "onnxruntime",
        "options": None,
        "method": "auto",
        "trials": 8,
        "seed": 0,
        "progress": None,
    },
    "parity": {
        "model": REQUIRED,
        "workload_or_inputs": REQUIRED,
        "runtime": "onnxruntime",
        "*": None,
        "options": None,
        "dynamic_shapes": None,
        "batches": 4,
    },
    "measure": {"artifact": REQUIRED, "example_inputs": REQUIRED, "*": None, "against": None},
    "judge": {"reference": REQUIRED, "candidate": REQUIRED, "workload": REQUIRED, "contract": REQUIRED},
    "optimize": {
        "workload": REQUIRED,
        "contract": REQUIRED,
        "*": None,
        "runtime": "onnxruntime",
        "budget": "30m",
        "out": "runs/name",
        "resume": True,
        "seed": 0,
        "cluster": None,
    },
    "Contract": {
        "max_drop": 0.005,
        "relative": False,
        "confidence": 0.95,
        "limits": (),
        "max_latency_ms": None,
        "max_size_bytes": None,
        "max_memory_bytes": None,
        "minimize": "latency",
    },
    "PruneChannels": {
        "ratio": 0.5,
        "of": "channels",
        "score": "l2",
        "scope": "global",
        "groups": None,
        "exclude": (),
        "min_width": 1,
        "round_to": "auto",
        "allow_inexact": False,
        "eager_safe": False,
        "compensate": True,
        "iterations": 1,
    },
    "Sparsify": {
        "amount": ...,
        "pattern": "unstructured",
        "score": "l1",
        "scope": "global",
        "parameters": None,
        "schedule": None,
    },
    "Quantize": {"scheme": "int8", "method": "auto", "overrides": ...},
    "Finetune": {"epochs": 1, "lr": None, "distill": True},
    "Distill": {"epochs": 1, "temperature": 4, "teacher": None, "losses": ..., "layers": None},
}
NAMES = {
    "profile": ["model", "example_inputs"],
    "couple": [],  # also takes what was captured
    "restore": [],
    "MaxDrop": ["metric", "max_drop"],
    "MinValue": ["metric", "value"],
}


@pytest.mark.parametrize("name", pj.__all__)
def test_every_name_resolves(name: str) -> None:
    value = getattr(pj, name)
    assert getattr(pj, name) is value
    if name not in ("__version__", "extend", "metrics", "steps"):
        assert value.__name__ == name
        assert inspect.getdoc(value), "a public name is documented"


def test_dir_lists_the_door() -> None:
    assert set(dir(pj)) >= {*PROMISED, *NAMES, "steps", "metrics", "extend", "PenjingError", "__version__"}
    assert sorted(pj.__all__) == sorted(dir(pj))


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match=r"module 'penjing' has no attribute 'prune'; it has .*PruneChannels"):
        pj.prune  # noqa: B018
    with pytest.raises(ImportError):
        from penjing import nothing  # noqa: F401


@pytest.mark.parametrize("name", PROMISED)
def test_promised_signatures(name: str) -> None:
    found = inspect.signature(getattr(pj, name)).parameters
    positional = True
    order = [parameter for parameter in PROMISED[name] if parameter != "*"]
    assert [parameter for parameter in found if parameter in order] == order
    for parameter, default in PROMISED[name].items():
        if parameter == "*":
            positional = False
            continue
        if positional:
            assert found[parameter].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if default is not ...:
            assert found[parameter].default == default, parameter
    more = [parameter for parameter in found.values() if parameter.name not in order]
    assert all(parameter.default is not REQUIRED for parameter in more), "what was added may be left out"
    if name not in ("Distill", "Finetune", "Quantize"):
        assert list(found)[: len(order)] == order, "what was added comes last"


@pytest.mark.parametrize("name", NAMES)
def test_promised_names(name: str) -> None:
    found = list(inspect.signature(getattr(pj, name)).parameters)
    assert found[: len(NAMES[name])] == NAMES[name]


def test_steps_and_metrics_are_namespaces() -> None:
    assert pj.steps.PruneChannels is pj.PruneChannels
    assert pj.metrics.accuracy is pj.accuracy


def test_extension_points_register() -> None:
    class Abacus:
        name = "abacus"
        packages = ("abacus",)

    pj.extend.register_runtime(Abacus())
    try:
        assert missing(RUNTIMES["abacus"]) == ["abacus"]
        with pytest.raises(ValueError, match="a runtime named 'abacus' is registered already"):
            pj.extend.register_runtime(Abacus())
    finally:
        del RUNTIMES["abacus"]
    assert all(callable(getattr(pj.extend, name)) for name in pj.extend.__all__)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, penjing; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert _fresh(code) == "[]"


def test_describing_the_work_imports_no_runtime_and_no_page() -> None:
    heavy = tuple(name for name in HEAVY if name not in ("torch", "pydantic"))
    code = (
        "import sys, penjing as pj; pj.Recipe([pj.PruneChannels(), pj.Finetune(), pj.Quantize()]), pj.Contract(), "
        f"pj.Workload, pj.profile, pj.couple, pj.apply, pj.export, pj.measure, pj.judge, pj.optimize; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    assert _fresh(code) == "[]"


def _fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

"""Penjing makes a trained model smaller and faster on the machine that will run it, and certifies what it lost.

    workload -> profile -> plan -> apply -> export -> measure -> judge -> report

Every name below is loaded when it is first used, so that `import penjing` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from penjing._version import __version__

if TYPE_CHECKING:
    from penjing.errors import PenjingError as PenjingError
    from penjing.measuring import Latency as Latency
    from penjing.measuring import measure as measure
    from penjing.onnx_import import import_onnx as import_onnx
    from penjing.optimizing import Run as Run
    from penjing.optimizing import apply as apply
    from penjing.optimizing import deploy as deploy
    from penjing.optimizing import optimize as optimize
    from penjing.planning import Sensitivity as Sensitivity
    from penjing.planning import mixed_precision as mixed_precision
    from penjing.planning import sensitivity as sensitivity
    from penjing.profiling import Profile as Profile
    from penjing.profiling import profile as profile
    from penjing.recipe import Cluster as Cluster
    from penjing.recipe import Contract as Contract
    from penjing.recipe import Distill as Distill
    from penjing.recipe import DropBlocks as DropBlocks
    from penjing.recipe import Factorize as Factorize
    from penjing.recipe import Finetune as Finetune
    from penjing.recipe import Grid as Grid
    from penjing.recipe import Lossless as Lossless
    from penjing.recipe import MaxDrop as MaxDrop
    from penjing.recipe import MinValue as MinValue
    from penjing.recipe import PruneChannels as PruneChannels
    from penjing.recipe import Quantize as Quantize
    from penjing.recipe import Recipe as Recipe
    from penjing.recipe import Regularize as Regularize
    from penjing.recipe import Rewind as Rewind
    from penjing.recipe import Scheme as Scheme
    from penjing.recipe import Sparsify as Sparsify
    from penjing.recipe import steps as steps
    from penjing.runtimes import Artifact as Artifact
    from penjing.runtimes import Parity as Parity
    from penjing.runtimes import Session as Session
    from penjing.runtimes import export as export
    from penjing.runtimes import load as load
    from penjing.runtimes import parity as parity
    from penjing.structure import Coupling as Coupling
    from penjing.structure import couple as couple
    from penjing.structure import remap_optimizer as remap_optimizer
    from penjing.techniques import Outcome as Outcome
    from penjing.techniques import restore as restore
    from penjing.techniques import sparsity_hook as sparsity_hook
    from penjing.verdict import Verdict as Verdict
    from penjing.verdict import judge as judge
    from penjing.workload import Workload as Workload
    from penjing.workload import accuracy as accuracy
    from penjing.workload import dataset as dataset
    from penjing.workload import metrics as metrics
    from penjing.workload import without as without

_HOME = {
    "penjing.errors": ("PenjingError",),
    "penjing.measuring": ("Latency", "measure"),
    "penjing.onnx_import": ("import_onnx",),
    "penjing.optimizing": ("Run", "apply", "deploy", "optimize"),
    "penjing.planning": ("Sensitivity", "mixed_precision", "sensitivity"),
    "penjing.profiling": ("Profile", "profile"),
    "penjing.recipe": (
        "Cluster",
        "Contract",
        "Distill",
        "DropBlocks",
        "Factorize",
        "Finetune",
        "Grid",
        "Lossless",
        "MaxDrop",
        "MinValue",
        "PruneChannels",
        "Quantize",
        "Recipe",
        "Regularize",
        "Rewind",
        "Scheme",
        "Sparsify",
        "steps",
    ),
    "penjing.runtimes": ("Artifact", "Parity", "Session", "export", "load", "parity"),
    "penjing.structure": ("Coupling", "couple", "remap_optimizer"),
    "penjing.techniques": ("Outcome", "restore", "sparsity_hook"),
    "penjing.verdict": ("Verdict", "judge"),
    "penjing.workload": ("Workload", "accuracy", "dataset", "metrics", "without"),
}
_ROOM = {name: room for room, names in _HOME.items() for name in names}

__all__ = ["__version__", "extend", *sorted(_ROOM)]


def __getattr__(name: str) -> Any:
    if name == "extend":
        return import_module("penjing.extend")
    if name not in _ROOM:
        raise AttributeError(f"module 'penjing' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_ROOM[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

"""One model through Penjing: captured, coupled, cut, proven, trained for a step, cut in place, deployed."""

import copy
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from benchmarks.trials.parts import try_parts
from benchmarks.trials.processes import Tell, one_line
from benchmarks.trials.weights import randomise
from benchmarks.zoo import Entry
from penjing.errors import CaptureError
from penjing.runtimes import difference, export
from penjing.runtimes.nesting import flatten
from penjing.structure import (
    Coupling,
    Cut,
    Folding,
    attribute_uses,
    attributes_after,
    capture,
    couple,
    cut,
    cut_in_place,
    fold,
    prove,
)
from penjing.structure.coupling import is_number
from penjing.structure.precision import InDouble
from penjing.workload import ExampleInputs

RATIOS = {"30": 0.3, "60": 0.6}
INDEPENDENT_LIMIT = 30_000_000  # parameters of a model that is zeroed and run in float64 a second time
ONNX_TOLERANCE = 1e-5

Removed = Mapping[str, NDArray[np.int64]]


def try_model(entry: Entry, tell: Tell, *, quick: bool = False) -> None:
    """Tell, stage by stage, how a model of the zoo fares; times are of the processor, in seconds.

    quick: 30 % of all groups, and no file is written: enough to find what fails.
    """
    model, inputs = entry.make()
    randomise(model)
    example = ExampleInputs.of(inputs)
    tell(parameters=count(model))
    with torch.no_grad():
        model(*example.args, **example.kwargs)
    start = time.process_time()
    try:
        captured = capture(model, example)
    except CaptureError as problem:
        tell(export={"error": one_line(problem.__cause__ or problem), "seconds": time.process_time() - start})
        ratios = [*RATIOS.items()][: 1 if quick else None]
        tell(parts={name: checked(try_parts, model, example, problem, ratio) for name, ratio in ratios})
        tell(cpu_s=round(time.process_time(), 2))
        return
    nodes = len(captured.module.graph.nodes)
    tell(export={"seconds": time.process_time() - start, "nodes": nodes, "fixed_batch": captured.fixed_batch})
    start = time.process_time()
    coupling = couple(captured)
    tell(couple={"seconds": time.process_time() - start, **describe(coupling)})
    cuts: dict[str, Any] = {}
    for name, ratio in [*RATIOS.items()][: 1 if quick else None]:
        exact, every = (choose(coupling, ratio, inexact=inexact) for inexact in (False, True))
        cuts[f"all {name}"] = cut_once(model, example, coupling, every)
        cuts[f"exact {name}"] = cuts[f"all {name}"]
        if exact.keys() != every.keys():
            cuts[f"exact {name}"] = {} if quick else cut_once(model, example, coupling, exact)
        tell(cuts=cuts)
    removed = choose(coupling, RATIOS["30"], inexact=True)
    if not removed:
        return
    tell(further=look_further(model, coupling, removed))
    if not quick:
        fixed = captured.fixed_batch is not None
        tell(onnx=checked(lambda: deploy(cut(coupling, removed).module, captured.example, fixed)))
    tell(cpu_s=round(time.process_time(), 2))


def count(model: nn.Module) -> int:
    """How many parameters a model has, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def checked(check: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """What a check found, or the exception that ended it."""
    try:
        return check(*args)
    except Exception as problem:  # whatever goes wrong with a stranger's model is the result
        return {"passed": False, "what": one_line(problem)}


def choose(coupling: Coupling, ratio: float, *, inexact: bool, seed: int = 0) -> dict[str, NDArray[np.int64]]:
    """Draw the units that go: a share of each group that may be cut, one at least, never all."""
    chooser = np.random.default_rng(seed)
    return {
        group.name: np.sort(chooser.choice(group.size, min(max(1, round(ratio * group.size)), group.size - 1), False))
        for group in coupling.groups
        if group.prunable and (inexact or group.exact)
    }


def describe(coupling: Coupling) -> dict[str, Any]:
    """Groups, operators without a rule, and the share of the parameters that no cut can touch, with reasons.

    An element of a parameter is out of reach when none of its indices belongs to a unit of a group that may be cut.
    """
    prunable = [group for group in coupling.groups if group.prunable]
    return {
        "groups": len(prunable),
        "exact_groups": sum(group.exact for group in prunable),
        "frozen": out_of_reach(coupling, inexact=True),
        "frozen_exact": out_of_reach(coupling, inexact=False),
        "reasons": reasons(coupling),
        "unknown": dict(coupling.unknown),
    }


def out_of_reach(coupling: Coupling, *, inexact: bool) -> float:
    """The share of the elements of all parameters that belong to no unit that may be cut."""
    return float(sum(_out_of_reach(coupling, inexact=inexact).values()) / max(1, count(coupling.captured.module)))


def _out_of_reach(coupling: Coupling, *, inexact: bool) -> dict[str, int]:
    reached: dict[str, dict[int, NDArray[np.bool_]]] = {}
    tensors = {name: tensor for name, tensor in coupling.captured.tensors.items() if isinstance(tensor, nn.Parameter)}
    for group in coupling.groups:
        if group.prunable and (inexact or group.exact):
            for member in group.members:
                if member.parameter in tensors:
                    size = tensors[member.parameter].shape[member.dim]
                    dims = reached.setdefault(member.parameter, {})
                    dims.setdefault(member.dim, np.zeros(size, dtype=np.bool_))[member.index.flatten()] = True
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            left = [
                int((~reached.get(name, {}).get(dim, np.zeros(n, bool))).sum()) for dim, n in enumerate(tensor.shape)
            ]
            found[name] = int(np.prod(left))
    return found


def reasons(coupling: Coupling) -> dict[str, int]:
    """How many elements of parameters are out of reach, by the reason that the coupling gives."""
    found: Counter[str] = Counter()
    why: dict[str, list[str]] = {}
    for row in coupling.frozen:
        why.setdefault(row.parameter, []).append(row.reason.partition(" in ")[0])
    single = {member.parameter for group in coupling.groups if not group.prunable for member in group.members}
    for name, elements in _out_of_reach(coupling, inexact=True).items():
        if elements:
            given = why.get(name) or (["it has a single unit"] if name in single else ["no reason is given"])
            found[" + ".join(sorted(set(given)))] += elements
    return dict(found.most_common())


def cut_once(model: nn.Module, example: ExampleInputs, coupling: Coupling, removed: Removed) -> dict[str, Any]:
    """Cut the graph, run it and prove it; nothing to cut gives an empty row."""
    if not removed:
        return {}
    start = time.process_time()
    try:
        done = cut(coupling, removed)
    except Exception as problem:  # see `checked`
        return {"cut": {"passed": False, "what": one_line(problem)}}
    row: dict[str, Any] = {
        "cut": {"passed": True, "seconds": time.process_time() - start},
        "left": count(done.module) / count(model),
        "runs": checked(runs, model, done, example),
        "proof": checked(proven, coupling, done.module, removed),
    }
    if coupling.is_exact(removed) and count(model) <= INDEPENDENT_LIMIT:
        independent = checked(zeroed, model, done, example, coupling, removed)
        row.update({"zeroed": independent} if independent else {})
    return row


def look_further(model: nn.Module, coupling: Coupling, removed: Removed) -> dict[str, Any]:
    """What more can be done with the cut of all groups: constants folded, training, the user's own class.

    The class is tried with the same units; failing that, with those that its code has a chance to lose; and failing
    that, with the exact ones of them.
    """
    done = cut(coupling, removed)
    found = {
        "trains": checked(trains, done.module, coupling.captured.example),
        "folded": checked(folded, coupling, done.module, removed),
        "in_place": checked(in_place, model, coupling, removed),
    }
    for name, inexact in (("in_place_gentler", True), ("in_place_exact", False)):
        if any(row["passed"] for key, row in found.items() if key.startswith("in_place")):
            break
        found[name] = checked(in_place_gentler, model, coupling, inexact)
    return found


def runs(model: nn.Module, done: Cut, example: ExampleInputs) -> dict[str, Any]:
    """Whether the smaller graph runs, and gives outputs of the original's shapes."""
    with torch.no_grad():
        wanted = [leaf.shape for leaf in leaves(model(*example.args, **example.kwargs))]
        found = [leaf.shape for leaf in leaves(done.module(*example.args, **example.kwargs))]
    return {"passed": wanted == found, "what": "" if wanted == found else f"{found}, not {wanted}"}


def proven(
    coupling: Coupling, candidate: nn.Module, removed: Removed, folding: Folding | None = None
) -> dict[str, Any]:
    """Penjing's own proof."""
    proof = prove(coupling, candidate, removed, folding=folding)
    return {"passed": proof.passed, "difference": proof.max_relative_difference, "what": proof.what}


def folded(coupling: Coupling, candidate: nn.Module, removed: Removed) -> dict[str, Any]:
    """The proof with the constants of removed channels in the layers behind them."""
    folding = fold(coupling, removed)
    return {**proven(coupling, candidate, removed, folding), "moved": folding.moved}


@torch.no_grad()
def zeroed(model: nn.Module, done: Cut, example: ExampleInputs, coupling: Coupling, removed: Removed) -> dict[str, Any]:
    """Compare with the model itself, every slice of a removed unit zero, in float64: a check apart from the proof.

    Nothing is said of a model that calls an operator which has no float64, or whose masks are no numbers there.
    """
    reference = copy.deepcopy(model).double()
    tensors = {**dict(reference.named_parameters(remove_duplicate=False)), **dict(reference.named_buffers())}
    for name, units in removed.items():
        for member in coupling[name].members:
            if member.parameter in tensors and is_number(tensors[member.parameter]):
                index = torch.from_numpy(member.index[units].flatten())
                tensors[member.parameter].index_fill_(member.dim, index, 0)
    args, kwargs = double(example)
    try:
        with InDouble():
            expected = leaves(reference(*args, **kwargs))
    except RuntimeError:
        return {}
    if not all(bool(output.isfinite().all()) for output in expected):
        return {}
    smaller = copy.deepcopy(done.module).double()
    with InDouble():
        found = leaves(smaller(*args, **kwargs))
    worst = max(difference(a.numpy(), b.numpy()) for a, b in zip(expected, found, strict=True))
    return {"passed": worst <= 1e-9, "difference": worst}


def in_place(model: nn.Module, coupling: Coupling, removed: Removed) -> dict[str, Any]:
    """The user's own class with smaller tensors, proven as the graph is."""
    surgery = cut(coupling, removed).surgery
    attributes = attributes_after(model, attribute_uses(model, coupling.captured), coupling, removed)
    smaller = cut_in_place(copy.deepcopy(model), replace(surgery, attributes=attributes))
    return {**proven(coupling, smaller, removed), "left": count(smaller) / count(model)}


def in_place_gentler(model: nn.Module, coupling: Coupling, inexact: bool) -> dict[str, Any]:
    """The same, of the units that the code of the class has a chance to lose; nothing to lose is a failure."""
    gentler = couple(coupling.captured, eager_safe=True)
    removed = choose(gentler, RATIOS["30"], inexact=inexact)
    return in_place(model, gentler, removed) if removed else {"passed": False, "what": "nothing can be cut"}


def trains(module: nn.Module, example: ExampleInputs) -> dict[str, Any]:
    """One step forward and backward in training mode: every gradient is finite, and there are some."""
    module = copy.deepcopy(module).train()
    outputs = [leaf for leaf in leaves(module(*example.args, **example.kwargs)) if leaf.requires_grad]
    # What stands for a mask, such as -3e38, has no square.
    torch.stack([leaf.float().clamp(-1e6, 1e6).pow(2).mean() for leaf in outputs]).sum().backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    finite = all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None)
    without = sum(gradient is None for gradient in gradients)
    return {"passed": finite and without < len(gradients), "without_gradient": without}


def deploy(module: nn.Module, example: ExampleInputs, fixed: bool) -> dict[str, Any]:
    """Export to ONNX and compare ONNX Runtime with torch; beside it torch's own error in single precision."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        call = (example.args, dict(example.kwargs))
        artifact = export(module, call, f"{folder}/onnx", dynamic_shapes={} if fixed else None, tolerance=1e-2)
        seconds = time.process_time() - start
        expected = leaves(module(*example.args, **example.kwargs))
        found, _ = flatten(artifact.load()(*example.args, **example.kwargs))
        worst = max(difference(np.asarray(a), np.asarray(b)) for a, b in zip(expected, found, strict=True))
        args, kwargs = double(example)
        twin = copy.deepcopy(module).double()
        with InDouble():
            precise = leaves(twin(*args, **kwargs))
        noise = max(difference(a.numpy(), b.numpy()) for a, b in zip(precise, expected, strict=True))
    return {"passed": worst <= ONNX_TOLERANCE, "difference": worst, "single_precision": noise, "seconds": seconds}


def double(example: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, floats in double precision."""
    args, kwargs = pytree.tree_map_only(
        Tensor, lambda x: x.double() if x.is_floating_point() else x, (tuple(example.args), dict(example.kwargs))
    )
    return args, kwargs


def leaves(outputs: Any) -> list[Any]:
    """The tensors and arrays of what a model returned."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor | np.ndarray)]

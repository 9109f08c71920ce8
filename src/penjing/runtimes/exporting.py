"""Export: capture the model, let a runtime write it, and compare the file with the model before anyone may use it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from penjing.errors import ArtifactError, WorkloadError
from penjing.runtimes.base import Artifact, Program, Run, find_runtime
from penjing.runtimes.capture import Flat, at_least_two, batch_sizes, capture, free_dimensions, with_batch
from penjing.runtimes.nesting import Node
from penjing.runtimes.onnxruntime import uses_quantized_operators
from penjing.runtimes.signature import Array, Signature, to_numpy
from penjing.storage import Manifest, atomic_folder, write_manifest
from penjing.types import Status
from penjing.workload import ExampleInputs

TOLERANCE = 1e-4
TOLERANCE_HALF = 1e-2  # float16 keeps 11 bits
TOLERANCE_QUANTIZED = 0.05


def export(
    model: nn.Module,
    example_inputs: Any,
    folder: str | os.PathLike[str],
    runtime: str = "onnxruntime",
    *,
    dynamic_shapes: Any = None,
    options: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
) -> Artifact:
    """Write the model as a runtime's files, and keep them only if they compute what the model computes.

    The model is exported in evaluation mode; its modes are restored. The files are run at the example's batch size, at one
    more, and at 1, and each output is compared with the model's: `difference` must not exceed `tolerance` (1e-4; 1e-2 for
    float16). A model with quantised operators is compared with its own simulation by `rms_difference` (0.05), because
    integer kernels may round a value to the neighbouring step.

    dynamic_shapes: as torch.export takes it; None leaves dimension 0 of each input free, {} fixes every size.
    options: session options of the runtime (onnxruntime: threads, inter_op_threads, graph_optimization, providers).

    Raises WorkloadError for a model that cannot be judged (float64, NaN outputs), CaptureError, RuntimeUnavailable, and
    ArtifactError when the outputs differ; the folder is then as it was before.
    """
    if not isinstance(model, nn.Module):
        raise WorkloadError(f"export takes a torch.nn.Module, not a {type(model).__name__}")
    target = find_runtime(runtime)
    session_options = target.options(options or {})
    example = ExampleInputs.of(example_inputs)
    path = Path(folder)
    with evaluating(model), torch.no_grad():
        signature, leaves = Signature.of(model.forward, example.args, example.kwargs)
        _refuse_float64(model, leaves, signature.names)
        free = free_dimensions(dynamic_shapes, signature, leaves)
        leaves = at_least_two(leaves, free)
        flat = Flat(model, signature)
        _, returns = flat.outputs(leaves)
        program = capture(flat, signature, leaves, free, returns)
        with atomic_folder(path) as temporary:
            target.export(program, temporary)
            run = target.load(temporary, session_options)
            for size in batch_sizes(program, leaves, free):
                inputs = leaves if size is None else with_batch(leaves, free, size)
                _compare(flat, inputs, returns, program, run, tolerance, f"{runtime} file for {path}")
            write_manifest(temporary, _manifest(program, signature, returns, runtime, session_options))
    return Artifact.open(path)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode and restore the mode of each of its modules."""
    modes = {module: module.training for module in model.modules()}
    _set_training(model, False)
    try:
        yield
    finally:
        _set_training(model, modes[model])
        for module, mode in modes.items():
            module.training = mode


def _set_training(model: nn.Module, training: bool) -> None:
    # The graph module that torch.export returns has one mode, that of its capture, and refuses to be asked for another.
    with suppress(NotImplementedError):
        model.train(training)


def difference(expected: Array, actual: Array) -> float:
    r"""Largest absolute difference over the largest magnitude expected, max|a - e| / max(max|e|, 1e-6).

    >>> difference(np.array([1.0, -2.0]), np.array([1.0, -2.1]))
    0.05...
    """
    if not expected.size:
        return 0.0
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-6))


def rms_difference(expected: Array, actual: Array) -> float:
    r"""Root mean square of the difference over that of the expected, |a - e|_2 / max(|e|_2, 1e-6).

    >>> rms_difference(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    0.1
    """
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    return float(np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-6))


def _compare(
    flat: Flat, inputs: Sequence[Tensor], returns: Node, program: Program, run: Run, tolerance: float | None, what: str
) -> None:
    tensors, structure = flat.outputs(inputs)
    batch = len(inputs[0]) if inputs[0].ndim else 1
    if structure != returns:
        raise WorkloadError(
            f"the structure or a constant of the model's output changes at batch {batch}; return tensors only"
        )
    quantized = uses_quantized_operators(program.exported)
    actual = run([to_numpy(leaf, spec.name) for leaf, spec in zip(inputs, program.inputs, strict=True)])
    for name, tensor, got in zip(program.outputs, tensors, actual, strict=True):
        expected = to_numpy(tensor, name)
        if expected.dtype.kind == "f" and not np.isfinite(expected).all():
            raise WorkloadError(
                f"the model's {name} holds NaN or infinite values on the example inputs; mend the model or the inputs"
            )
        if expected.shape != np.shape(got) or expected.dtype != got.dtype:
            raise ArtifactError(
                f"{what}: {name} is {got.dtype}{list(np.shape(got))} at batch {batch}, where the model gives "
                f"{expected.dtype}{list(expected.shape)}; avoid code that depends on the batch size, such as squeeze() without a dimension"
            )
        if expected.dtype.kind != "f":
            limit, found = tolerance or 0.0, float(np.mean(expected != got)) if expected.size else 0.0
            measure = "of its entries"
        elif quantized:
            limit, found = tolerance or TOLERANCE_QUANTIZED, rms_difference(expected, got)
            measure = "of its root mean square"
        else:
            default = TOLERANCE_HALF if expected.dtype == np.float16 else TOLERANCE
            limit, found = tolerance or default, difference(expected, got)
            measure = "of its largest magnitude"
        if not found <= limit:  # also true for NaN
            raise ArtifactError(
                f"{what}: {name} differs from the model by {found:.2g} {measure} at batch {batch}, more than the tolerance "
                f"{limit:.2g}; pass a larger tolerance= if that is acceptable, or options={{'graph_optimization': 'basic'}}"
            )


def _refuse_float64(model: nn.Module, leaves: Sequence[Tensor], names: Sequence[str]) -> None:
    tensors = [*zip(names, leaves, strict=True), *model.named_parameters()]
    if found := [name for name, tensor in tensors if tensor.dtype == torch.float64]:
        raise WorkloadError(
            f"{found[0]!r} is float64, which no runtime here runs; call .float() on the model and its inputs"
        )


def _manifest(
    program: Program, signature: Signature, returns: Node, runtime: str, options: Mapping[str, Any]
) -> Manifest:
    return Manifest(
        kind="artifact",
        status=Status.UNJUDGED,
        runtime=runtime,
        options=dict(options),
        inputs=[{"name": i.name, "dtype": i.dtype, "shape": list(i.shape)} for i in program.inputs],
        outputs=[{"name": name} for name in program.outputs],
        extra={"call": {**signature.to_data(), "returns": returns}},
    )

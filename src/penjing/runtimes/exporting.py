"""Export: capture the model, let a runtime write it, and compare the file with the model before anyone may use it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from penjing.errors import ArtifactError, RuntimeUnavailable, WorkloadError
from penjing.runtimes.agreement import arithmetic, compare, reference
from penjing.runtimes.base import RUNTIMES, Artifact, Program, Runtime, find_runtime
from penjing.runtimes.capture import (
    Flat,
    FreeDims,
    at_least_two,
    batch_sizes,
    capture,
    free_dimensions,
    quantized_forms,
    with_batch,
)
from penjing.runtimes.locate import first_difference
from penjing.runtimes.nesting import Node
from penjing.runtimes.signature import Signature
from penjing.storage import Manifest, atomic_folder, write_manifest
from penjing.types import Status
from penjing.workload import ExampleInputs, read_model


def export(
    model: nn.Module | str | Path,
    example_inputs: Any,
    folder: str | os.PathLike[str],
    runtime: str = "onnxruntime",
    *,
    dynamic_shapes: Any = None,
    options: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
) -> Artifact:
    """Write the model as a runtime's files, and keep them only if they compute what the model computes.

    The model is exported in evaluation mode; its modes are restored. The files are run at the example's batch size, at
    one more, and at 1, and each output is compared with the model's: `difference` must not exceed `tolerance` (1e-4;
    1e-2 for float16; integer outputs must be equal). A model with quantised operators is compared with its own
    simulation by `rms_difference` (0.05), because integer kernels may round a value to the neighbouring step; so is
    arithmetic in bf16 (0.05) and fp16 (0.01). Integer outputs may then differ in that share of their entries.

    dynamic_shapes: as torch.export takes it; None leaves dimension 0 of each input free, {} fixes every size.
    options: those of the runtime, threads and precision in all of them; `penjing runtimes` lists the rest.

    Raises WorkloadError for a model that cannot be judged (float64, NaN outputs), CaptureError, RuntimeUnavailable, and
    ArtifactError when the outputs differ; the folder is then as it was before.
    """
    model = read_model(model)
    target = find_runtime(runtime)
    session_options = target.options(options or {})
    example = ExampleInputs.of(example_inputs)
    path = Path(folder)
    with evaluating(model), torch.no_grad():
        taken = take(model, example, dynamic_shapes)
        flat, leaves, free, program, returns = taken.flat, taken.leaves, taken.free, taken.program, taken.returns
        _refuse_forms(program, target)
        numbers = arithmetic(program, session_options)
        with atomic_folder(path) as temporary:
            target.export(program, temporary, session_options)
            run = target.load(temporary, session_options)
            for size in batch_sizes(program, leaves, free):
                inputs = leaves if size is None else with_batch(leaves, free, size)
                what = f"{runtime} file for {path}"
                try:
                    compare(flat, inputs, returns, program, run, numbers=numbers, tolerance=tolerance, what=what)
                except ArtifactError as problem:
                    where = first_difference(flat, program, target, session_options, inputs, numbers)
                    raise ArtifactError(f"{problem}; {where}") from problem
            write_manifest(temporary, _manifest(program, taken.signature, returns, runtime, session_options))
    return Artifact.open(path)


def _refuse_forms(program: Program, target: Runtime) -> None:
    """Raise RuntimeUnavailable for a form of quantisation that the runtime has no operators for."""
    for form in sorted(quantized_forms(program.exported) - set(target.forms)):
        able = ", ".join(name for name, other in sorted(RUNTIMES.items()) if form in other.forms)
        raise RuntimeUnavailable(
            f"{target.name} cannot run {form!r} layers; it runs {', '.join(target.forms)}. Quantise with another "
            f"scheme, or use a runtime that can: {able}"
        )


@dataclass(frozen=True)
class Taken:
    """A model as every runtime is given it: the program, and what it was captured from.

    leaves: the tensors of the example, with two samples at least where the batch is free. returns: the structure of the
    outputs.
    """

    flat: Flat
    signature: Signature
    leaves: list[Tensor]
    free: list[FreeDims]
    returns: Node
    program: Program


def take(model: nn.Module, example: ExampleInputs, dynamic_shapes: Any) -> Taken:
    """Capture a model, in evaluation mode and without gradients; raises what `export` raises before it writes."""
    signature, leaves = Signature.of(model.forward, example.args, example.kwargs)
    _refuse_float64(model, leaves, signature.names)
    free = free_dimensions(dynamic_shapes, signature, leaves)
    leaves = at_least_two(leaves, free)
    flat = Flat(model, signature)
    _, returns = reference(flat, leaves)
    program = capture(flat, signature, leaves, free, returns, one_batch=dynamic_shapes is None)
    return Taken(flat, signature, leaves, free, returns, program)


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

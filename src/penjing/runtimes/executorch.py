"""ExecuTorch, the runtime of phones: the model as one .pte file, its products delegated to XNNPACK.

A .pte file plans its memory ahead, for the largest batch that it takes (max_batch): a larger batch runs in parts, where
each output has the batch as its dimension 0. Operators that XNNPACK does not take run in ExecuTorch's portable kernels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from penjing.errors import RuntimeUnavailable, ShapeError, first_line
from penjing.runtimes.base import Program, Run, register_runtime
from penjing.runtimes.options import Option, complete
from penjing.runtimes.quiet import mute
from penjing.runtimes.rewrite import decomposed, recapture
from penjing.runtimes.signature import Array
from penjing.runtimes.where import layer_of
from penjing.storage import atomic_write, dump_json, load_json

FILE, CALL = "model.pte", "call.json"


class ExecuTorch:
    """Options: threads, max_batch (in the file), precision (fp32; int8 comes with a Quantize step)."""

    name = "executorch"
    summary = "model.pte with XNNPACK; fp32 and int8 on phones, Arm and x86"
    packages = ("executorch",)
    extra = "penjing[executorch]"
    forms = ("int8", "weights of few bits")
    known: ClassVar[Mapping[str, Option]] = {
        "threads": Option(1),
        "precision": Option("fp32", ("fp32",)),
        "max_batch": Option(None, values=None, in_file=True),
    }

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        options = complete(self.name, given, self.known)
        most = options["max_batch"]
        if most is not None and (type(most) is not int or most < 1):
            raise RuntimeUnavailable(
                f"executorch option max_batch={most!r} must be a whole number of at least 1, or None for the example's"
            )
        return options

    def export(self, program: Program, folder: Path, options: Mapping[str, Any]) -> None:
        with mute():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

        batches = _Batches.of(program, options["max_batch"])
        exported = recapture(program, decomposed(program, xnnpack=True), _largest(program, batches.largest))
        try:
            with mute():
                lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
                content = lowered.to_executorch().buffer
        except Exception as error:  # each pass has exceptions of its own
            reason = first_line(error)
            raise RuntimeUnavailable(
                f"executorch {version('executorch')} cannot express the model: {reason}"
                f"{layer_of(program.exported, str(error))}; replace the operator, or use another runtime"
            ) from error
        (folder / FILE).write_bytes(content)
        atomic_write(folder / CALL, dump_json(asdict(batches), what="the call"))

    def load(self, folder: Path, options: Mapping[str, Any]) -> Run:
        settings = self.options(options)
        with mute():
            from executorch.runtime import Runtime

        def open_method() -> Any:
            try:
                with mute():
                    return Runtime.get().load_program(folder / FILE).load_method("forward")
            except RuntimeError as error:
                raise RuntimeUnavailable(
                    f"executorch {version('executorch')} cannot run {folder / FILE}: {first_line(error)}; export the "
                    "model again with the versions installed here"
                ) from error

        method = _Method(settings["threads"], open_method)
        call = load_json((folder / CALL).read_text("utf-8"))
        batches = _Batches(call["largest"], tuple(call["inputs"]), call["apart"])

        def run(arrays: Sequence[Array]) -> list[Array]:
            # The memory of an output is the method's, and the next call writes over it.
            return [output.numpy().copy() for output in method().execute([torch.from_numpy(a) for a in arrays])]

        return lambda arrays: batches.run(run, arrays)


class _Method:
    """A loaded method and the threads it was loaded with.

    The threads are the process's, and a method holds on to those it found: with others in their place it would wait
    for ever. So whoever finds them changed since it was loaded sets its own number and loads again.
    """

    _changes = 0

    def __init__(self, threads: int, load: Callable[[], Any]) -> None:
        self._threads, self._load = threads, load
        self._open()

    def __call__(self) -> Any:
        if self._seen != _Method._changes:
            self._open()
        return self._method

    def _open(self) -> None:
        with mute():
            from executorch.extension.pybindings import portable_lib as pool

            if pool._threadpool_get_thread_count() != self._threads:
                pool._unsafe_reset_threadpool(self._threads)
                _Method._changes += 1
        self._method, self._seen = self._load(), _Method._changes


@dataclass(frozen=True)
class _Batches:
    """The largest batch of a file, which inputs carry it, and whether more samples may be run in turns.

    They may where dimension 0 of every output is the batch. largest is None where no input has a batch.
    """

    largest: int | None
    inputs: tuple[bool, ...]
    apart: bool

    @staticmethod
    def of(program: Program, most: int | None) -> "_Batches":
        carry = tuple(spec.shape[:1] == ("batch",) for spec in program.inputs)
        if not any(carry):
            return _Batches(None, carry, apart=False)
        leaves, _ = program.exported.example_inputs
        signature = program.exported.graph_signature
        values = {node.name: node.meta["val"] for node in program.exported.graph.nodes if "val" in node.meta}
        named = zip(signature.user_inputs, carry, strict=True)
        sizes = {str(values[str(name)].shape[0]) for name, is_carried in named if is_carried}
        shapes = [values[str(name)].shape for name in signature.user_outputs]
        apart = all(len(shape) > 0 and str(shape[0]) in sizes for shape in shapes)
        return _Batches(max(2, most or len(leaves[carry.index(True)])), carry, apart)

    def run(self, run: Run, arrays: Sequence[Array]) -> list[Array]:
        """Run once, or in turns; raises ShapeError for too many samples that must be run together."""
        count = next((len(a) for a, carried in zip(arrays, self.inputs, strict=True) if carried), 0)
        if self.largest is None or count <= self.largest:
            return run(arrays)
        if not self.apart:
            raise ShapeError(
                f"this .pte file takes batches of up to {self.largest} samples, not {count}; export it with "
                f"options={{'max_batch': {count}}}"
            )
        turns = [
            run([a[i : i + self.largest] if carried else a for a, carried in zip(arrays, self.inputs, strict=True)])
            for i in range(0, count, self.largest)
        ]
        return [np.concatenate(outputs) for outputs in zip(*turns, strict=True)]


def _largest(program: Program, batch: int | None) -> dict[str, int]:
    """The most that each free size may be; raises RuntimeUnavailable for one without a limit."""
    largest = {} if batch is None else {"batch": batch}
    values = {node.name: node.meta["val"] for node in program.exported.graph.nodes if node.op == "placeholder"}
    for name, spec in zip(program.exported.graph_signature.user_inputs, program.inputs, strict=True):
        for size, free in zip(values[str(name)].shape, spec.shape, strict=True):
            if not isinstance(free, str) or free in largest:
                continue
            upper = program.exported.range_constraints[size.node.expr].upper
            if not upper.is_finite or upper > 2**31:
                raise RuntimeUnavailable(
                    f"executorch plans its memory ahead, but {free!r} of input {spec.name!r} has no limit; give one, "
                    f"dynamic_shapes=... torch.export.Dim({free.replace('.', '_')!r}, max=...)"
                )
            largest[free] = int(upper)
    return largest


register_runtime(ExecuTorch())

"""TorchInductor, ahead of time: the model compiled to native code, as one .pt2 file for this kind of processor.

The compiler builds the number of threads and the precision into the file. A .pt2 file is native code: loading one runs
it. Hashes tell that it is the file that was exported, not that whoever exported it meant well.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from penjing.errors import RuntimeUnavailable, first_line
from penjing.runtimes.base import Program, Run, register_runtime
from penjing.runtimes.capture import FORMS, uses_quantized_operators
from penjing.runtimes.options import Option, complete
from penjing.runtimes.quiet import mute
from penjing.runtimes.rewrite import decomposed, in_precision, recapture
from penjing.runtimes.signature import Array
from penjing.runtimes.torch_threads import torch_threads
from penjing.runtimes.where import layer_of

FILE = "model.pt2"


class Inductor:
    """Options, all in the file: threads, precision (fp32, or bf16 by autocast)."""

    name = "inductor"
    summary = "model.pt2, native code; fp32 and bf16, fuses what is between the products"
    packages = ("torch",)
    extra = "penjing"
    forms = tuple(FORMS.values())
    known: ClassVar[Mapping[str, Option]] = {
        "threads": Option(1, in_file=True),
        "precision": Option("fp32", ("fp32", "bf16"), worth_trying=("fp32", "bf16"), in_file=True),
    }

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return complete(self.name, given, self.known)

    def export(self, program: Program, folder: Path, options: Mapping[str, Any]) -> None:
        from torch._inductor import aoti_compile_and_package

        if all(shutil.which(compiler) is None for compiler in ("c++", "g++", "clang++")):
            raise RuntimeUnavailable("inductor needs a C++ compiler and finds none; apt-get install g++")
        quantized = uses_quantized_operators(program.exported)
        # Frozen weights are packed for the kernels, and converted, once. The integer kernels that freezing brings leave
        # the simulation by more than the tolerance: a quantised model keeps its exact float arithmetic.
        settings = {"cpp.threads": options["threads"], "freezing": not quantized}

        decompose, halve = decomposed(program, xnnpack=False), in_precision(options["precision"])
        try:
            with mute(), torch.no_grad(), torch_threads(options["threads"]):
                exported = recapture(program, lambda module: halve(decompose(module)))
                aoti_compile_and_package(exported, package_path=str(folder / FILE), inductor_configs=settings)
        except Exception as error:  # the compiler raises many kinds
            raise RuntimeUnavailable(
                f"torch {torch.__version__} cannot compile the model: {first_line(error)}"
                f"{layer_of(program.exported, str(error))}; replace the operator, or use another runtime"
            ) from error

    def load(self, folder: Path, options: Mapping[str, Any]) -> Run:
        from torch._inductor import aoti_load_package

        settings = self.options(options)
        try:
            with mute():
                model = aoti_load_package(str(folder / FILE))
        except RuntimeError as error:
            raise RuntimeUnavailable(
                f"torch {torch.__version__} cannot run {folder / FILE}: {first_line(error)}; it was compiled for "
                "another processor or version: export the model here"
            ) from error

        def run(arrays: Sequence[Array]) -> list[Array]:
            with torch.inference_mode(), torch_threads(settings["threads"]):
                return [output.numpy() for output in model(*map(torch.from_numpy, arrays))]

        return run


register_runtime(Inductor())

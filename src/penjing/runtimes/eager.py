"""PyTorch itself, operator by operator: the reference, and the runtime of whoever has no other.

The file is the captured graph as JSON beside its tensors; loading it runs no code of the model's authors.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from penjing.errors import ArtifactError, RuntimeUnavailable
from penjing.runtimes.base import Program, Run, register_runtime
from penjing.runtimes.capture import FORMS
from penjing.runtimes.options import Option, complete
from penjing.runtimes.rewrite import drop_notes, free_sizes, in_precision, plain_module
from penjing.runtimes.signature import Array
from penjing.runtimes.torch_threads import torch_threads
from penjing.storage import load_tensors, save_tensors

GRAPH, WEIGHTS = "graph.json", "weights.safetensors"


class Eager:
    """Options: threads, precision (fp32, or bf16 by autocast)."""

    name = "torch"
    summary = "graph.json + weights.safetensors; fp32 and bf16, the reference that the others are compared with"
    packages = ("torch",)
    extra = "penjing"
    forms = tuple(FORMS.values())
    known: ClassVar[Mapping[str, Option]] = {
        "threads": Option(1),
        "precision": Option("fp32", ("fp32", "bf16"), worth_trying=("fp32", "bf16")),
    }

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return complete(self.name, given, self.known)

    def export(self, program: Program, folder: Path, options: Mapping[str, Any]) -> None:
        from penjing.structure import GraphModel, capture, save_graph

        leaves, _ = program.exported.example_inputs
        try:
            captured = capture(plain_module(program.exported), (tuple(leaves), {}), free_sizes(program, {}))
            drop_notes(captured.module.graph)
            graph = GraphModel.of(captured)
            save_graph(graph, folder / GRAPH)
        except ArtifactError as problem:
            raise RuntimeUnavailable(f"torch cannot keep this model as a graph: {problem}") from problem
        save_tensors(folder / WEIGHTS, graph.state_dict())

    def load(self, folder: Path, options: Mapping[str, Any]) -> Run:
        from penjing.structure import restore_graph
        from penjing.techniques.quantize import ops  # noqa: F401 - the operators that a quantised graph calls

        settings = self.options(options)
        graph = restore_graph(folder / GRAPH, load_tensors(folder / WEIGHTS))
        model = in_precision(settings["precision"])(graph)

        def run(arrays: Sequence[Array]) -> list[Array]:
            with torch.inference_mode(), torch_threads(settings["threads"]):
                return [output.numpy() for output in model(*map(torch.from_numpy, arrays))]

        return run


register_runtime(Eager())

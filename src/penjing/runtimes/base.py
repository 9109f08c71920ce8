"""What a runtime is, what it leaves on disk (an Artifact), and what is called (a Session).

A runtime is one file: it writes a captured program into a folder and opens it again as a function on arrays. Everything
else is the same for all of them and happens here and in `exporting`: reading the call, the manifest, checking the
numbers, giving back what the model returned.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from penjing.errors import ArtifactError, RuntimeUnavailable
from penjing.runtimes.nesting import Node, rebuild
from penjing.runtimes.options import Option
from penjing.runtimes.signature import Array, Input, Signature
from penjing.storage import Manifest, read_manifest

if TYPE_CHECKING:
    from penjing.onnx_import import Metadata

Run = Callable[[Sequence[Array]], list[Array]]
"""The bare call that is timed: input arrays in the order of the manifest, output arrays in the same way."""


@dataclass(frozen=True)
class Program:
    """A captured model: flat tensors in, flat tensors out, under these names.

    source: what the .onnx file says about itself that the model was read from, which a new one goes on saying.
    """

    exported: torch.export.ExportedProgram
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    source: "Metadata | None" = None


class Runtime(Protocol):
    """One way to run a model outside PyTorch. See `penjing.testing.runtimes.RuntimeCase` for what is asked of it."""

    @property
    def name(self) -> str:
        """Name at the front door and in manifests."""
        ...

    @property
    def summary(self) -> str:
        """One line: the files it writes and what it can accelerate."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages it needs; the first is the one whose version tells what it can do."""
        ...

    @property
    def extra(self) -> str:
        """What is installed for it: "penjing[openvino]"."""
        ...

    @property
    def known(self) -> Mapping[str, Option]:
        """Options that it takes; `threads` and `precision` are among them in all runtimes."""
        ...

    @property
    def forms(self) -> tuple[str, ...]:
        """Forms of quantisation that it runs, of `penjing.runtimes.capture.FORMS`."""
        ...

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Complete the options with defaults; raises RuntimeUnavailable for one that is unknown or impossible."""
        ...

    def export(self, program: Program, folder: Path, options: Mapping[str, Any]) -> None:
        """Write the program into a folder; an operator that it lacks is a RuntimeUnavailable that names it."""
        ...

    def load(self, folder: Path, options: Mapping[str, Any]) -> Run:
        """Open what `export` wrote; raises RuntimeUnavailable when the runtime refuses it."""
        ...


RUNTIMES: dict[str, Runtime] = {}


def register_runtime(runtime: Runtime) -> None:
    """Make a runtime known to `export` and `load` under its name; raises ValueError when the name is taken."""
    if runtime.name in RUNTIMES:
        raise ValueError(f"a runtime named {runtime.name!r} is registered already; choose another name")
    RUNTIMES[runtime.name] = runtime


def find_runtime(name: str) -> Runtime:
    """Look up a runtime that is installed; raises RuntimeUnavailable, with the known names or the way to install it."""
    if name not in RUNTIMES:
        known = ", ".join(repr(known) for known in sorted(RUNTIMES))
        raise RuntimeUnavailable(f"runtime={name!r} is unknown; use one of {known}")
    if absent := missing(RUNTIMES[name]):
        raise RuntimeUnavailable(
            f"runtime {name!r} lacks {', '.join(absent)} here; pip install '{RUNTIMES[name].extra}' brings it"
        )
    return RUNTIMES[name]


def missing(runtime: Runtime) -> list[str]:
    """Packages of a runtime that are not installed."""
    return [package for package in runtime.packages if importlib.util.find_spec(package) is None]


@dataclass(frozen=True)
class Artifact:
    """A deployed model: a folder with the runtime's files and a manifest that describes and seals them."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | os.PathLike[str]) -> "Artifact":
        """Read an artifact without loading its model; hashes are checked. Raises ArtifactError for any other folder."""
        folder = Path(path)
        manifest = read_manifest(folder, verify=True)
        if manifest.kind != "artifact" or manifest.runtime is None:
            raise ArtifactError(
                f"{folder} holds a {manifest.kind}, not a deployed model; write one with penjing.export"
            )
        return Artifact(folder, manifest)

    @property
    def runtime(self) -> str:
        """Name of the runtime that runs it."""
        return str(self.manifest.runtime)

    @property
    def options(self) -> Mapping[str, Any]:
        """Session options: what was measured is what is deployed."""
        options: Mapping[str, Any] = self.manifest.options
        return options

    @property
    def size_bytes(self) -> int:
        """Size of the files that are deployed, without the manifest."""
        return sum(file.size_bytes for file in self.manifest.files.values())

    def load(self) -> "Session":
        """Open a session; hashes are checked again."""
        return load(self.path)


class Session:
    """A deployed model that can be called like the original.

    Takes tensors or numpy arrays, by position or by name, and returns the structure that the model returned, of tensors
    if any tensor came in. Raises WorkloadError or ShapeError for inputs that do not fit.
    """

    def __init__(self, artifact: Artifact, signature: Signature, outputs: Node, run: Run) -> None:
        self.artifact = artifact
        self.run = run
        self._signature = signature
        self._outputs = outputs

    def feeds(self, *args: Any, **kwargs: Any) -> list[Array]:
        """Take one call apart into the arrays that `run` takes."""
        return self._signature.feeds(args, kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arrays = self.run(self.feeds(*args, **kwargs))
        device = _device_of((args, kwargs))
        if device is None:
            return rebuild(self._outputs, arrays)
        return rebuild(self._outputs, [torch.from_numpy(np.asarray(array)).to(device) for array in arrays])


def load(path: str | os.PathLike[str]) -> Session:
    """Open a deployed model; sizes and hashes are checked first and nothing is unpickled.

    Raises ArtifactError for a folder that is missing, foreign or changed, RuntimeUnavailable without its runtime.
    """
    artifact = Artifact.open(path)
    runtime = find_runtime(artifact.runtime)
    try:
        call = artifact.manifest.extra["call"]
        inputs = tuple(Input(i["name"], i["dtype"], tuple(i["shape"])) for i in artifact.manifest.inputs)
        signature = Signature(tuple(call["positional"]), call["arguments"], inputs)
        outputs = call["returns"]
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"the manifest of {artifact.path} does not say how the model is called ({error}); export it again"
        ) from error
    return Session(artifact, signature, outputs, runtime.load(artifact.path, artifact.options))


def _device_of(value: Any) -> torch.device | None:
    """Device of the first tensor in a nested value, None if there is none."""
    if isinstance(value, Tensor):
        return value.device
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return next((device for item in value if (device := _device_of(item)) is not None), None)
    return None

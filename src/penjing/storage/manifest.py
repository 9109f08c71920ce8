"""The manifest of an artefact folder: what the files are, and a hash and a size for each, checked before any is loaded.

`manifest.json` lies at the top of the folder. Names of files are relative, with forward slashes.
"""

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from penjing.errors import ArtifactError
from penjing.storage.atomic import atomic_write
from penjing.storage.hashing import sha256_file
from penjing.storage.strict_json import dump_json, load_json
from penjing.types import Status

SCHEMA: Literal[1] = 1
NAME = "manifest.json"
MAX_BYTES = 64 * 2**20
"""Largest manifest that is read, in bytes."""


class FileEntry(BaseModel):
    """Size and SHA-256 of one file of the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What a saved model or artefact is, how it was made and what is known of it.

    `runtime`, `options`, `inputs` and `outputs` describe the deployed form; `recipe`, `surgery_proof`, `verdict` and
    `sizes` say how it came about; `files` is filled in by `write_manifest`. Values are plain (see `dump_json`);
    `extra` is free.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA
    kind: Literal["model", "artifact"]
    status: Status = Status.UNJUDGED
    runtime: str | None = None
    options: dict[str, Any] = {}
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    recipe: list[dict[str, Any]] | None = None
    surgery_proof: dict[str, Any] | None = None
    verdict: dict[str, Any] | None = None
    sizes: dict[str, int] = {}
    versions: dict[str, str] = Field(default_factory=lambda: library_versions())
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    files: dict[str, FileEntry] = {}
    extra: dict[str, Any] = {}


def write_manifest(folder: str | Path, manifest: Manifest) -> Manifest:
    """Hash every file of a folder and write its manifest, atomically; give the manifest that was written.

    Raises ArtifactError for a file that no reader would accept, such as a link that leaves the folder.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "model.onnx").write_bytes(b"graph")
    >>> write_manifest(folder, Manifest(kind="artifact", runtime="onnxruntime")).files["model.onnx"].size_bytes
    5
    >>> read_manifest(folder).runtime
    'onnxruntime'
    """
    folder = Path(folder)
    files = {}
    for root, _, names in os.walk(folder):
        for file in (Path(root, name) for name in names):
            name = file.relative_to(folder).as_posix()
            if name != NAME:
                size = _inside(folder, name).stat().st_size
                files[name] = FileEntry(size_bytes=size, sha256=sha256_file(file))
    complete = manifest.model_copy(update={"files": dict(sorted(files.items()))})
    atomic_write(folder / NAME, dump_json(complete.model_dump(), what=f"{folder / NAME}", indent=2) + "\n")
    return complete


def read_manifest(folder: str | Path, verify: bool = True) -> Manifest:
    """Read the manifest of a folder and check the folder against it.

    The schema, every path and every size are always checked; `verify=False` leaves out the hashes, which takes reading
    every file. Files that are not listed are not looked at. Raises ArtifactError that names the file and what is wrong.
    """
    folder = Path(folder)
    manifest = _parse(folder / NAME)
    for name, entry in manifest.files.items():
        file = _inside(folder, name)
        size = file.stat().st_size
        if size != entry.size_bytes:
            raise ArtifactError(
                f"{file} has {size:,} bytes and its manifest says {entry.size_bytes:,}; "
                "it was changed or cut short: take another copy or export again"
            )
        if verify and sha256_file(file) != entry.sha256:
            raise ArtifactError(f"{file} is not the file that was saved (its hash differs); take another copy")
    return manifest


def library_versions() -> dict[str, str]:
    """Give the versions of what a result depends on: Python, Penjing and the libraries that compute, if installed."""
    versions = {"python": platform.python_version()}
    for package in ("penjing", "torch", "numpy", "onnx", "onnxruntime"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _parse(path: Path) -> Manifest:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ArtifactError(f"{path} has {size:,} bytes, more than the {MAX_BYTES:,} that a manifest may have")
        data = load_json(path.read_bytes())
    except OSError as problem:
        raise ArtifactError(
            f"{path} cannot be read: {problem.strerror}; give the folder that penjing.export or save wrote"
        ) from problem
    except ValueError as problem:
        raise ArtifactError(f"{path} is not valid JSON ({problem}); take another copy or export again") from problem
    if not isinstance(data, dict) or "schema_version" not in data:
        raise ArtifactError(f"{path} is no manifest of Penjing; give the folder that penjing.export or save wrote")
    if data["schema_version"] != SCHEMA:
        raise ArtifactError(
            f"{path} has schema {data['schema_version']!r} and this version of Penjing reads schema {SCHEMA}; "
            "install the version that wrote it, or export again"
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{path}: {where}={first['input']!r}: {first['msg']}; export again") from problem


def _inside(folder: Path, name: str) -> Path:
    """Give the regular file of this name, or raise ArtifactError if the name or a link leads out of the folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or re.search(r"[\\\x00]|^[A-Za-z]:", name):
        raise ArtifactError(f"{folder}: the file name {name!r} leads out of the folder; do not load this artefact")
    file = folder / name
    try:
        target = file.resolve(strict=True)
        regular = target.is_file()
    except (OSError, RuntimeError) as problem:  # RuntimeError: a link that leads to itself
        raise ArtifactError(f"{file} cannot be read ({problem}); take another copy or export again") from problem
    if not target.is_relative_to(folder.resolve()):
        raise ArtifactError(f"{file} is a link that leads out of the folder; put the file itself in its place")
    if not regular:
        raise ArtifactError(f"{file} is no regular file; put the file itself in its place")
    return file

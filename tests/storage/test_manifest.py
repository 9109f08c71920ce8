"""A folder is what its manifest says, or it is not loaded."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from penjing.errors import ArtifactError
from penjing.storage import (
    Manifest,
    fingerprint,
    library_versions,
    manifest,
    read_manifest,
    sha256_file,
    write_manifest,
)
from penjing.types import Status


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "sub" / "weights").write_bytes(b"weights")
    write_manifest(folder, Manifest(kind="artifact", runtime="onnxruntime", status=Status.CERTIFIED))
    return folder


def edit(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(data | changes))


def test_every_file_is_listed_with_size_and_hash(folder: Path) -> None:
    files = read_manifest(folder).files
    assert list(files) == ["model.onnx", "sub/weights"]
    assert files["sub/weights"].size_bytes == 7
    assert files["sub/weights"].sha256 == sha256_file(folder / "sub" / "weights")


def test_all_fields_come_back(tmp_path: Path) -> None:
    written = write_manifest(
        tmp_path,
        Manifest(
            kind="model",
            status=Status.SEARCH_ESTIMATE,
            options={"threads": 1},
            inputs=[{"name": "x", "shape": ["batch", 3]}],
            recipe=[{"quantize": {"scheme": "int8"}}],
            verdict={"outcome": "undecided", "n_needed": math.inf, "drop": math.nan},
            sizes={"model": 12},
            extra={"note": None},
        ),
    )
    read = read_manifest(tmp_path)
    assert fingerprint(read.model_dump()) == fingerprint(written.model_dump())  # nan is not equal to itself
    assert read.versions == library_versions()
    assert read.versions.keys() >= {"python", "penjing", "torch"}
    assert read.verdict is not None
    assert math.isnan(read.verdict["drop"])


def test_writing_again_follows_the_files(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"smaller")
    (folder / "sub" / "weights").unlink()
    write_manifest(folder, read_manifest_unchecked(folder))
    assert list(read_manifest(folder).files) == ["model.onnx"]


def read_manifest_unchecked(folder: Path) -> Manifest:
    return Manifest.model_validate_json((folder / "manifest.json").read_text())


def test_a_changed_byte_is_found(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"grapf")
    with pytest.raises(ArtifactError, match=r"model\.onnx is not the file that was saved .*take another copy"):
        read_manifest(folder)
    assert read_manifest(folder, verify=False).kind == "artifact"  # sizes still hold


@pytest.mark.parametrize("verify", [True, False])
def test_a_size_that_differs_is_found(folder: Path, verify: bool) -> None:
    (folder / "model.onnx").write_bytes(b"graphs and more")
    with pytest.raises(ArtifactError, match=r"model\.onnx has 15 bytes and its manifest says 5"):
        read_manifest(folder, verify)


def test_a_missing_file_is_found(folder: Path) -> None:
    (folder / "sub" / "weights").unlink()
    with pytest.raises(ArtifactError, match=r"weights cannot be read .*export again"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret", "sub/../../secret", "sub\\..\\secret", "C:/secret", "", ".", "a\x00b"]
)
def test_names_that_leave_the_folder_are_refused(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_bytes(b"secret")
    edit(folder, files={name: {"size_bytes": 6, "sha256": sha256_file(folder.parent / "secret")}})
    with pytest.raises(ArtifactError, match=r"the file name .* leads out of the folder"):
        read_manifest(folder)


def test_links_may_not_leave_the_folder(folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_bytes(b"graph")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(secret)
    with pytest.raises(ArtifactError, match=r"model\.onnx is a link that leads out of the folder"):
        read_manifest(folder)
    with pytest.raises(ArtifactError, match=r"model\.onnx is a link that leads out of the folder"):
        write_manifest(folder, read_manifest_unchecked(folder))


def test_a_linked_folder_may_not_leave_either(folder: Path) -> None:
    outside = folder.parent / "outside"
    (folder / "sub").rename(outside)
    (folder / "sub").symlink_to(outside)
    with pytest.raises(ArtifactError, match="weights is a link that leads out of the folder"):
        read_manifest(folder)


def test_a_link_inside_the_folder_is_fine(folder: Path) -> None:
    (folder / "model.onnx").rename(folder / "sub" / "graph")
    (folder / "model.onnx").symlink_to("sub/graph")
    assert read_manifest(folder).runtime == "onnxruntime"


def test_a_link_to_itself_and_a_pipe_are_refused(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to("model.onnx")
    with pytest.raises(ArtifactError, match=r"model\.onnx cannot be read"):
        read_manifest(folder)
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")
    with pytest.raises(ArtifactError, match=r"model\.onnx is no regular file"):
        read_manifest(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_other_schemas_are_refused(folder: Path, version: Any) -> None:
    edit(folder, schema_version=version)
    with pytest.raises(ArtifactError, match=r"has schema .* reads schema 1; install the version that wrote it"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "virus"}, "kind='virus'"),
        ({"status": "perfect"}, "status='perfect'"),
        ({"surprise": 1}, "surprise=1"),
        ({"files": {"model.onnx": {"size_bytes": -1, "sha256": "0" * 64}}}, r"files\.model\.onnx\.size_bytes=-1"),
        ({"files": {"model.onnx": {"size_bytes": 5, "sha256": "beef"}}}, r"sha256='beef'"),
    ],
)
def test_fields_that_do_not_fit_are_named(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "no manifest of Penjing"),
        ("{}", "no manifest of Penjing"),
        ("[" * 10**5, "not valid JSON"),
    ],
)
def test_text_that_is_no_manifest(folder: Path, text: str, message: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        read_manifest(folder)


def test_an_oversize_manifest_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_BYTES", 100)
    with pytest.raises(ArtifactError, match="more than the 100 that a manifest may have"):
        read_manifest(folder)


def test_a_folder_without_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json cannot be read: No such file.*give the folder"):
        read_manifest(tmp_path)


def test_a_value_that_json_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json\.extra\.when is a set"):
        write_manifest(tmp_path, Manifest(kind="model", extra={"when": {1}}))

"""Tensors come back bit for bit, shared where they were shared, and damage is never loaded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from penjing.errors import ArtifactError
from penjing.storage import fingerprint_tensors, load_metadata, load_tensors, save_tensors
from penjing.storage.codecs import CODECS
from penjing.storage.raw import DTYPES, from_bytes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def through(file: Path, tensors: dict[str, Tensor], compact: bool = False) -> dict[str, Tensor]:
    save_tensors(file, tensors, compact=compact)
    loaded = load_tensors(file)
    assert {name: (t.dtype, t.shape) for name, t in loaded.items()} == {
        name: (t.dtype, t.shape) for name, t in tensors.items()
    }
    assert fingerprint_tensors(loaded) == fingerprint_tensors(tensors)
    return loaded


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("compact", [False, True])
def test_every_dtype_comes_back(file: Path, dtype: torch.dtype, compact: bool) -> None:
    values = torch.arange(256, dtype=torch.uint8).repeat(8)
    raw = (values % 2 if dtype == torch.bool else values).numpy()
    through(file, {"full": from_bytes(raw, dtype, (-1,)), "scalar": from_bytes(raw[16:32], dtype, (-1,))[1]}, compact)


def test_strides_and_gradients_are_accepted(file: Path) -> None:
    image = torch.rand(2, 3, 4, 4)
    through(
        file,
        {
            "channels_last": image.to(memory_format=torch.channels_last),
            "transposed": torch.rand(3, 5).T,
            "every_second": torch.rand(10)[::2],
            "expanded": torch.rand(3, 1).expand(3, 4),
            "conjugated": torch.rand(4, dtype=torch.complex64).conj(),
            "parameter": torch.nn.Parameter(torch.rand(2)),
            "empty": torch.empty(0, 3),
            "scalar": torch.tensor(-0.0),
        },
    )


def test_any_reader_opens_our_files_and_we_open_theirs(file: Path) -> None:
    tensors = {"b": torch.rand(3, 2), "a": torch.arange(5, dtype=torch.int8), "c": torch.tensor(True)}
    save_tensors(file, tensors, {"by": "us"})
    assert fingerprint_tensors(load_file(file)) == fingerprint_tensors(tensors)
    save_file(tensors, file, {"by": "them"})
    assert fingerprint_tensors(load_tensors(file)) == fingerprint_tensors(tensors)
    assert load_metadata(file) == {"by": "them"}


def test_equal_tensors_give_equal_files(tmp_path: Path) -> None:
    def written(order: list[str]) -> bytes:
        base = torch.arange(12.0)
        views = {"x": base[:8], "y": base[4:], "m": base.clone(), "tied": torch.ones(2)}
        views["also tied"] = views["tied"]
        save_tensors(tmp_path / "file", {name: views[name] for name in order}, {"b": "1", "a": "2"})
        return (tmp_path / "file").read_bytes()

    assert written(["x", "y", "m", "tied", "also tied"]) == written(["also tied", "m", "tied", "y", "x"])


def test_tied_weights_are_stored_once_and_tied_again(file: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(1000, 16), torch.nn.Linear(16, 1000, bias=False))
    model[1].weight = model[0].weight
    loaded = through(file, model.state_dict())
    assert file.stat().st_size < 1000 * 16 * 4 + 1000
    loaded["0.weight"][7, 7] = 42
    assert loaded["1.weight"][7, 7] == 42


@pytest.mark.parametrize("compact", [False, True])
def test_views_share_memory_again(file: Path, compact: bool) -> None:
    base = torch.rand(40, 30)
    base[5:] = 0
    views = {
        "whole": base,
        "transposed": base.T,
        "part": base[3:7, 2:9],
        "bits": base.view(torch.int32)[1],
        "column": base[:, 3],
    }
    loaded = through(file, views, compact)
    assert file.stat().st_size < base.nbytes + 1500
    loaded["transposed"][4, 3] = 42  # whole[3, 4]
    assert loaded["whole"][3, 4] == 42
    assert loaded["part"][0, 2] == 42
    loaded["bits"][3] = 0
    assert loaded["column"][1] == 0


def test_neighbours_in_one_buffer_stay_separate(file: Path) -> None:
    flat = torch.rand(30)
    loaded = through(file, {"a": flat[:10], "b": flat[10:20]})
    assert file.stat().st_size < 20 * 4 + 200  # the last ten are nobody's
    loaded["a"].zero_()
    assert torch.equal(loaded["b"], flat[10:20])
    assert loaded["a"].untyped_storage().nbytes() == 40


def test_views_of_one_numpy_array_are_exact(file: Path) -> None:
    array = np.arange(10.0)
    through(file, {"a": torch.from_numpy(array), "b": torch.from_numpy(array[2:]), "c": torch.from_numpy(array[:5])})


def test_a_lazy_conjugate_beside_its_origin_is_exact(file: Path) -> None:
    values = torch.rand(4, dtype=torch.complex64)
    through(file, {"a": values, "b": values.conj(), "c": values.conj().imag})


def test_a_name_like_ours_is_left_alone(file: Path) -> None:
    base = torch.rand(4)
    through(file, {"a": base, "b": base[1:], "storage.a": torch.ones(2)})


def test_loaded_tensors_do_not_depend_on_the_file(file: Path) -> None:
    save_tensors(file, {"w": torch.ones(1000)})
    loaded = load_tensors(file)
    with file.open("r+b") as handle:
        handle.seek(-4000, 2)
        handle.write(b"\xff" * 4000)
    assert loaded["w"].sum() == 1000


# compact storage

bit_patterns = st.sampled_from([0, 0, 0, 1, 0x80, 0x7F, 0xFF])  # zeros, -0.0, NaN and infinities arise from these


@st.composite
def tensors_of_any_bits(draw: st.DrawFn) -> Tensor:
    dtype = draw(
        st.sampled_from([torch.int8, torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.complex64])
    )
    shape = draw(st.sampled_from([(), (0,), (1,), (3, 0, 2), (7,), (8,), (5, 3), (2, 3, 4, 2)]))
    size = int(np.prod(shape)) * dtype.itemsize
    fill = draw(st.sampled_from(["zero", "none zero", "any", "patterns"]))
    content = {
        "zero": st.just(0),
        "none zero": st.integers(1, 255),
        "any": st.integers(0, 255),
        "patterns": bit_patterns,
    }[fill]
    raw = np.array(draw(st.lists(content, min_size=size, max_size=size)), dtype=np.uint8)
    return from_bytes(raw, dtype, shape)


@pytest.mark.parametrize("name", CODECS)
@given(tensor=tensors_of_any_bits())
def test_every_codec_is_exact(name: str, tensor: Tensor) -> None:
    raw = tensor.reshape(-1).view(torch.uint8).numpy()
    packed = CODECS[name].encode(raw, tensor.element_size())
    if packed is None:
        assert (name, tensor.numel()) == ("palette", 0)
    else:
        assert CODECS[name].decode(packed, tensor.element_size(), tensor.numel(), "w").tobytes() == raw.tobytes()


@settings(max_examples=30)
@given(tensor=tensors_of_any_bits(), repeat=st.sampled_from([1, 50]))
def test_compact_files_are_exact(tmp_path_factory: pytest.TempPathFactory, tensor: Tensor, repeat: int) -> None:
    tensors = {"w": tensor, "many": torch.stack([tensor] * repeat)}
    through(tmp_path_factory.mktemp("compact") / "file", tensors, compact=True)


def test_zeros_cost_a_bit_and_dense_noise_costs_nothing_more(file: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randint(-(2**31), 2**31 - 1, (20_000,), generator=generator, dtype=torch.int32)
    sparse = torch.randn(20_000, generator=generator) * (torch.rand(20_000, generator=generator) < 0.1)
    save_tensors(file, {"dense": dense}, compact=True)
    assert file.stat().st_size <= dense.nbytes + 200
    assert (sparse.view(torch.int32) == -(2**31)).sum() > 8000  # the product has left -0.0
    save_tensors(file, {"sparse": sparse}, compact=True)
    assert file.stat().st_size < 2100 * 4 + 2 * 20_000 / 8
    save_tensors(file, {"zero": torch.zeros(20_000)}, compact=True)
    assert file.stat().st_size < 300


def test_nan_payloads_and_negative_zero_survive(file: Path) -> None:
    bits = torch.tensor([0, -(2**31), 0x7FC00001, -1, 0x7F800000, 1] + [0] * 500, dtype=torch.int32)
    loaded = through(file, {"w": bits.view(torch.float32)}, compact=True)
    assert torch.equal(loaded["w"].view(torch.int32), bits)
    assert "codecs" in file.read_bytes()[:300].decode(errors="replace")


# damage


def rewrite_header(file: Path, change: Any) -> None:
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


@pytest.mark.parametrize("keep", [0, 5, 8, 40, -1])
def test_a_truncated_file_is_an_error(file: Path, keep: int) -> None:
    save_tensors(file, {"w": torch.ones(10)})
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"cannot be read as safetensors.*another copy"):
        load_tensors(file)
    with pytest.raises(ArtifactError, match="cannot be read as safetensors"):
        load_metadata(file)


def test_foreign_and_missing_files_are_errors(file: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot be read as safetensors.*No such file"):
        load_tensors(file)
    torch.save({"w": torch.ones(2)}, file)
    with pytest.raises(ArtifactError, match="cannot be read as safetensors"):
        load_tensors(file)


@pytest.mark.parametrize("offsets", [[0, 4], [0, 80], [8, 40], [40, 0], [0, 10**15]])
def test_a_header_that_lies_about_sizes_is_an_error(file: Path, offsets: list[int]) -> None:
    save_tensors(file, {"w": torch.ones(10)})
    rewrite_header(file, lambda header: header["w"].update(data_offsets=offsets))
    with pytest.raises(ArtifactError, match="cannot be read as safetensors"):
        load_tensors(file)


@pytest.mark.parametrize(
    "note",
    [
        "no json",
        "[]",
        '{"v": {"of": "absent"}}',
        '{"v": {"of": ["w"]}}',
        '{"w": {"of": "w"}}',
        '{"v": {"of": "w", "offset": -4, "dtype": "F32", "shape": [2], "stride": [1]}}',
        '{"v": {"of": "w", "offset": 2, "dtype": "F32", "shape": [2], "stride": [1]}}',
        '{"v": {"of": "w", "offset": 0, "dtype": "F32", "shape": [11], "stride": [1]}}',
        '{"v": {"of": "w", "offset": 0, "dtype": "F32", "shape": [2], "stride": [-1]}}',
        '{"v": {"of": "w", "offset": 0, "dtype": "F33", "shape": [2], "stride": [1]}}',
        '{"v": {"of": "w", "offset": 0, "dtype": "F32", "shape": [2, 2], "stride": [1]}}',
        "[" * 100_000,
    ],
)
def test_aliases_that_reach_outside_are_errors(file: Path, note: str) -> None:
    save_tensors(file, {"w": torch.ones(10)})
    rewrite_header(file, lambda header: header.update(__metadata__={"aliases": note}))
    with pytest.raises(ArtifactError, match="another copy"):
        load_tensors(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [10**14]}, "this machine has"),
        ({"shape": [100]}, "damaged"),
        ({"shape": [2000]}, "damaged"),
        ({"shape": [-1]}, "contradict"),
        ({"shape": "long"}, "contradict"),
        ({"dtype": "F64"}, "damaged"),
        ({"codec": "pickle"}, "contradict"),
    ],
)
def test_codec_notes_that_lie_are_errors(file: Path, change: dict[str, Any], message: str) -> None:
    weight = torch.zeros(1000)
    weight[::10] = 1.5
    save_tensors(file, {"w": weight}, compact=True)

    def lie(header: dict[str, Any]) -> None:
        note = json.loads(header["__metadata__"]["codecs"])
        note["w"].update(change)
        header["__metadata__"]["codecs"] = json.dumps(note)

    rewrite_header(file, lie)
    with pytest.raises(ArtifactError, match=message):
        load_tensors(file)


def test_flipped_compressed_bytes_are_errors(file: Path) -> None:
    save_tensors(file, {"w": torch.arange(3000, dtype=torch.int32) % 7}, compact=True)
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    for position in range(start, len(content), 7):
        damaged = content.copy()
        damaged[position] ^= 0x10
        file.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="w is damaged"):
            load_tensors(file)


@pytest.mark.parametrize("metadata", [{"aliases": "x"}, {"codecs": "x"}, {"n": 1}])
def test_metadata_that_cannot_be_kept_is_an_error(file: Path, metadata: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match="use strings"):
        save_tensors(file, {"w": torch.ones(1)}, metadata)
    assert not file.exists()

"""Codecs: sizes near the entropy, every bit back, and damage of every kind told by the name of the chunk."""

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from penjing.errors import ArtifactError
from penjing.storage import entropy_bound
from penjing.storage.codecs import CODECS, Bytes, smallest
from penjing.storage.codecs.chunk import seal
from penjing.storage.codecs.palette import decode_palette, encode_palette
from penjing.storage.codecs.sparse import encode_sparse


def raw_of(array: NDArray[np.generic]) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def packed_by(name: str, raw: Bytes, itemsize: int) -> Bytes:
    packed = CODECS[name].encode(raw, itemsize)
    assert packed is not None
    return packed


@given(
    values=st.integers(1, 256),
    count=st.integers(1, 700),
    itemsize=st.sampled_from([1, 2, 4, 8]),
    seed=st.integers(0, 9),
)
def test_every_size_of_table_comes_back(values: int, count: int, itemsize: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 256, (values, itemsize), dtype=np.uint8)
    raw = table[rng.integers(0, values, count)].reshape(-1)
    assert decode_palette(packed_by("palette", raw, itemsize), itemsize, count).tobytes() == raw.tobytes()


@pytest.mark.parametrize("late", [False, True])
def test_more_than_256_values_have_no_palette(late: bool) -> None:
    few = np.arange(8000, dtype=np.float32) % 256
    assert encode_palette(raw_of(few), 4) is not None
    few[-1 if late else 0] = 256
    assert encode_palette(raw_of(few), 4) is None
    assert encode_palette(raw_of(np.zeros(0, dtype=np.float32)), 4) is None


@pytest.mark.parametrize("bits", range(1, 9))
def test_palettes_come_near_their_entropy(bits: int) -> None:
    rng = np.random.default_rng(bits)
    table = rng.standard_normal(2**bits).astype(np.float32)
    even = table[rng.integers(0, 2**bits, 60_000)]
    likely = rng.dirichlet(np.full(2**bits, 0.5))
    uneven = table[rng.choice(2**bits, 60_000, p=likely)]
    for weight in (even, uneven):
        name, packed = smallest(raw_of(weight), 4) or ("none", raw_of(weight))
        assert name == "palette"
        assert packed.size < 1.03 * entropy_bound(weight) + table.nbytes + 200


def test_integers_of_four_bits_in_bytes_take_four() -> None:
    weight = np.random.default_rng(0).integers(-8, 8, 50_000, dtype=np.int8)
    found = smallest(raw_of(weight), 1)
    assert found is not None
    assert found[1].size < 1.01 * 50_000 / 2 + 100


def test_a_mask_of_2_of_4_costs_the_entropy_of_its_patterns() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((40_000, 4)).argsort(1) < 2
    values = rng.integers(1, 2**31, mask.sum(), dtype=np.uint32)
    weight = np.zeros(mask.shape, dtype=np.uint32)
    weight[mask] = values
    patterns = 40_000 * np.log2(6) / 8
    assert encode_sparse(raw_of(weight), 4).size - values.nbytes < 1.03 * patterns + 200


def test_entropy_by_hand() -> None:
    assert entropy_bound(np.array([1.0] * 6 + [2.0] * 2)) == pytest.approx(-(6 * np.log2(0.75) + 2 * np.log2(0.25)) / 8)
    assert entropy_bound(np.zeros(100)) == 0
    assert entropy_bound(np.zeros(0)) == 0


WEIGHT = (np.arange(600, dtype=np.float32) % 7) - 3


def told(name: str, packed: Bytes) -> str | None:
    """What the error says, None where the content is right."""
    try:
        found = CODECS[name].decode(packed, 4, 600, "layer.weight")
    except ArtifactError as problem:
        return str(problem)
    return None if found.tobytes() == WEIGHT.tobytes() else "wrong"


@pytest.mark.parametrize("name", CODECS)
def test_each_flipped_bit_is_told(name: str) -> None:
    packed = packed_by(name, raw_of(WEIGHT), 4)
    errors = []
    for position in range(packed.size):
        for bit in range(8):
            wrong = packed.copy()
            wrong[position] ^= 1 << bit
            errors.append(told(name, wrong))
    assert errors.count(None) <= 4, "few bits of a frame's header mean nothing, such as the size of its window"
    assert all(error is None or error.startswith("layer.weight is damaged") for error in errors)


@pytest.mark.parametrize("name", CODECS)
def test_truncated_foreign_and_bombs_are_told(name: str) -> None:
    packed = packed_by(name, raw_of(WEIGHT), 4)
    bomb = np.frombuffer(zstandard.ZstdCompressor().compress(bytes(10**8)), dtype=np.uint8)
    unsized = np.frombuffer(zstandard.ZstdCompressor(write_content_size=False).compress(bytes(600)), dtype=np.uint8)
    wrong: list[Bytes] = [packed[:end] for end in range(packed.size)]
    for chunk in [*wrong, bomb, unsized, np.arange(50, dtype=np.uint8), seal(bytes(700))]:
        with pytest.raises(ArtifactError, match="w is damaged"):
            CODECS[name].decode(chunk, 4, 600, "w")
    for count in (0, 599 - 8, 609, 10**9):
        with pytest.raises(ArtifactError, match="w is damaged"):
            CODECS[name].decode(packed, 4, count, "w")


def test_an_index_behind_the_table_is_told() -> None:
    table = np.array([1, 2, 3], dtype=np.uint8)
    with pytest.raises(ArtifactError, match="an index points behind a table of 3"):
        decode_palette(seal(b"\x02" + table.tobytes() + b"\x03"), 1, 4)

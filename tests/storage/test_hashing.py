"""Fingerprints say what is equal and what is not."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from penjing.errors import ArtifactError
from penjing.storage import canonical_json, dump_json, fingerprint, fingerprint_tensors, load_json, sha256_file
from penjing.types import Scope


def test_file_hash_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"penjing" * 1000)
    assert sha256_file(path) == hashlib.sha256(b"penjing" * 1000).hexdigest()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="absent cannot be read: No such file"):
        sha256_file(tmp_path / "absent")


def test_fingerprint_is_the_hash_of_canonical_json() -> None:
    assert fingerprint({"b": (1, 2.5), "a": None}) == hashlib.sha256(b'{"a":null,"b":[1,2.5]}').hexdigest()
    assert canonical_json({"scope": Scope.LOCAL, "n": np.int64(3)}) == '{"n":3,"scope":"local"}'


@pytest.mark.parametrize(
    ("one", "other"), [(1, True), (1, 1.0), (0.0, -0.0), ("1", 1), (math.nan, "nan"), ([], {}), (None, "")]
)
def test_values_of_different_types_differ(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [0, {1, 2}]}, r"data\.a\[1\] is a set"),
        ({"a": {1: 2}}, r"data\.a has the key 1"),
        ({"$float": 1}, r"\$float"),
    ],
)
def test_what_json_cannot_hold_is_named(value: Any, where: str) -> None:
    with pytest.raises(ArtifactError, match=where):
        fingerprint(value)


def test_a_value_that_holds_itself_is_an_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ArtifactError, match="holds itself"):
        fingerprint(loop)
    with pytest.raises(ArtifactError, match="holds itself"):
        dump_json(loop)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_json_comes_back_and_is_strict(value: Any) -> None:
    def refuse(token: str) -> None:
        raise AssertionError(token)

    text = dump_json(value)
    assert repr(load_json(text)) == repr(value)  # repr tells nan, -0.0, 1 and 1.0 and True apart
    json.loads(text, parse_constant=refuse)


def test_deep_json_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="too deeply"):
        load_json("[" * 200_000)


base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2)


@pytest.mark.parametrize(
    "same",
    [
        base.to(memory_format=torch.channels_last),
        base.clone().requires_grad_(),
        torch.nn.Parameter(base),
        torch.stack([base, base], dim=-1)[..., 0],
    ],
)
def test_layout_and_gradients_do_not_count(same: Tensor) -> None:
    assert fingerprint_tensors({"w": same}) == fingerprint_tensors({"w": base})


@pytest.mark.parametrize(
    "other",
    [
        {"v": base},
        {"w": base.double()},
        {"w": base.view(torch.int32)},
        {"w": base.reshape(3, 2, 2, 2)},
        {"w": base.nextafter(torch.tensor(99.0))},
        {"w": torch.where(base == 0, -0.0, base)},
        {"w": base, "x": torch.empty(0)},
    ],
)
def test_name_dtype_shape_and_every_bit_count(other: dict[str, Tensor]) -> None:
    assert fingerprint_tensors(other) != fingerprint_tensors({"w": base})


def test_order_of_names_does_not_count_and_bf16_works() -> None:
    one, two = torch.ones(3, dtype=torch.bfloat16), torch.tensor(True)
    assert fingerprint_tensors({"a": one, "b": two}) == fingerprint_tensors({"b": two, "a": one})
    assert fingerprint_tensors({"a": one}) != fingerprint_tensors({"a": one.half()})


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantised_tensor_is_named() -> None:
    with pytest.raises(ArtifactError, match=r"w is a quantised tensor; store \.int_repr"):
        fingerprint_tensors({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)})


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, device="meta"), "w is on the meta device"),
        (torch.eye(2).to_sparse(), "w has the layout torch.sparse_coo"),
        (torch.ones(2, dtype=torch.complex128), "w has the dtype torch.complex128"),
        (np.ones(2), "w is a ndarray"),
    ],
)
def test_what_has_no_plain_bytes_is_named(tensor: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        fingerprint_tensors({"w": tensor})

"""Nested state comes back as it was; training goes on as if it had never stopped."""

import json
import math
import random
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from penjing.errors import ArtifactError
from penjing.storage import (
    get_random_state,
    load_checkpoint,
    save_checkpoint,
    save_tensors,
    set_random_state,
)
from penjing.types import Scope


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.checkpoint"


def same(one: Any, other: Any) -> bool:
    """Equal in type and value, NaN included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.keys()), list(other.keys())) and same(list(one.values()), list(other.values()))
    return repr(one) == repr(other)


keys = st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False) | st.tuples(st.integers(), st.text())
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.just(torch.arange(3))
    | st.just(np.float32(2.5))
)
states = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=10,
)


@given(states)
def test_any_state_comes_back(tmp_path_factory: pytest.TempPathFactory, state: Any) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "file"
    save_checkpoint(path, data=state)
    assert same(load_checkpoint(path).data, state)


def test_special_values_come_back(file: Path) -> None:
    state = {
        0: {"step": torch.tensor(3.0), "moment": torch.rand(3, dtype=torch.bfloat16)},
        "best": -math.inf,
        "loss": math.nan,
        "zero": -0.0,
        "large": 2**130,
        "counter": Counter({30: 1, 60: 2}),
        "ordered": OrderedDict(b=1, a=2),
        "array": np.arange(6, dtype=np.uint32).reshape(2, 3)[:, ::-1],
        "tag": {"tuple": [1]},
        None: (),
    }
    save_checkpoint(file, tensors={"weight": torch.ones(2)}, data=state)
    loaded = load_checkpoint(file)
    assert same(loaded.data, state)
    assert torch.equal(loaded.tensors["weight"], torch.ones(2))
    assert loaded.tensors.keys() == {"weight"}


def test_shared_tensors_are_shared_again(file: Path) -> None:
    weight = torch.ones(3)
    save_checkpoint(file, tensors={"w": weight}, data={"master": [weight]})
    loaded = load_checkpoint(file)
    loaded.data["master"][0][0] = 7
    assert loaded.tensors["w"][0] == 7


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.AdamW(parameters, lr=0.05, amsgrad=True),
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True),
        lambda parameters: torch.optim.RMSprop(parameters, lr=0.05, centered=True),
    ],
    ids=["AdamW", "SGD", "RMSprop"],
)
@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4]),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20),
        lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
    ],
    ids=["MultiStepLR", "OneCycleLR", "ReduceLROnPlateau"],
)
def test_training_goes_on_bit_for_bit(file: Path, make: Any, schedule: Any) -> None:
    def build() -> tuple[nn.Module, Any, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1))
        optimizer = make(model.parameters())
        return model, optimizer, schedule(optimizer)

    def train(model: nn.Module, optimizer: Any, scheduler: Any, steps: int) -> None:
        for _ in range(steps):
            batch = torch.randn(16, 4) * random.random() + torch.from_numpy(np.random.rand(4)).float()
            loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step(
                *([loss.item()] if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau) else [])
            )

    model, optimizer, scheduler = build()
    train(model, optimizer, scheduler, 3)
    state = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "random": get_random_state()}
    save_checkpoint(file, tensors=model.state_dict(), data=state)
    train(model, optimizer, scheduler, 3)

    again, optimizer, scheduler = build()
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    loaded = load_checkpoint(file)
    again.load_state_dict(loaded.tensors)
    optimizer.load_state_dict(loaded.data["optimizer"])
    scheduler.load_state_dict(loaded.data["scheduler"])
    set_random_state(loaded.data["random"])
    train(again, optimizer, scheduler, 3)
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_numpy_generators_come_back(file: Path, bits: Any) -> None:
    generator = np.random.Generator(bits(3))
    save_checkpoint(file, data=generator.bit_generator.state)
    expected = generator.random(5)
    other = np.random.Generator(bits(4))
    other.bit_generator.state = load_checkpoint(file).data
    assert np.array_equal(other.random(5), expected)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [0, {1, 2}]}, r"data\['a'\]\[1\] is a builtins\.set"),
        ({"f": len}, r"data\['f'\] is a builtins\.builtin_function"),
        ([Scope.LOCAL], r"data\[0\] is a penjing\.types\.Scope"),
        ({"d": defaultdict(int)}, r"data\['d'\] is a collections\.defaultdict"),
        ({frozenset(): 1}, r"data key frozenset\(\) is a builtins\.frozenset"),
        ({"b": b"bytes"}, r"data\['b'\] is a builtins\.bytes"),
        ({"t": (torch.ones(1, device="meta"),)}, r"data\['t'\]\[0\] is on the meta device"),
        ({"n": np.array(["text"])}, r"data\['n'\] is a numpy array of <U4"),
        ({"n": np.arange(3, dtype=">f8")}, r"data\['n'\] is a numpy array of >f8"),
    ],
)
def test_what_cannot_be_kept_is_named_by_its_place(file: Path, value: Any, where: str) -> None:
    with pytest.raises(ArtifactError, match=where):
        save_checkpoint(file, data=value)
    assert not file.exists()


def test_state_that_holds_itself_is_an_error(file: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ArtifactError, match="holds itself"):
        save_checkpoint(file, data=loop)


def test_a_bad_tensor_keeps_its_own_name(file: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^conv\.weight is on the meta device"):
        save_checkpoint(file, tensors={"conv.weight": torch.ones(1, device="meta")})


def test_a_torn_file_is_an_error(file: Path) -> None:
    save_checkpoint(file, data={"w": torch.ones(100)})
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="cannot be read as safetensors"):
        load_checkpoint(file)


def test_foreign_and_newer_files_are_errors(file: Path) -> None:
    save_tensors(file, {"w": torch.ones(1)})
    with pytest.raises(ArtifactError, match="is no checkpoint of Penjing"):
        load_checkpoint(file)
    save_tensors(file, {}, {"checkpoint": "2", "data": "null"})
    with pytest.raises(ArtifactError, match=r"has checkpoint schema '2'.*install the version"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    "data",
    [
        "{",
        {"exec": "x"},
        {"tensor": "absent"},
        {"tensor": []},
        {"dict": [[[], 1]]},
        {"dict": 1},
        {"float": "x"},
        {},
        {"a": 1, "b": 2},
    ],
)
def test_state_that_makes_no_sense_is_an_error(file: Path, data: Any) -> None:
    save_tensors(file, {}, {"checkpoint": "1", "data": data if isinstance(data, str) else json.dumps(data)})
    with pytest.raises(ArtifactError, match="is a damaged checkpoint"):
        load_checkpoint(file)


def test_a_checkpoint_is_plain_safetensors(file: Path) -> None:
    save_checkpoint(file, data={"w": torch.ones(2), "random": get_random_state()})
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float32, torch.uint8, torch.uint32}

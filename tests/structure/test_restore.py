"""A cut model comes back from data alone, and a file that says anything else is refused."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from structure_zoo import ZOO
from test_zoo import some
from torch import nn

from penjing.errors import ArtifactError, ShapeError
from penjing.storage import load_tensors, save_tensors
from penjing.structure import Surgery, couple, cut, cut_in_place, restore, restore_graph, save_graph


@pytest.mark.parametrize("name", ZOO)
def test_a_graph_comes_back(name: str, tmp_path: Path) -> None:
    model, example = ZOO[name]()
    coupling = couple(model, example)
    done = cut(coupling, some(coupling)).module.eval()
    save_graph(done, tmp_path / "graph.json")
    save_tensors(tmp_path / "weights.safetensors", done.state_dict())
    again = restore_graph(tmp_path / "graph.json", load_tensors(tmp_path / "weights.safetensors"))
    assert torch.equal(again(example), done(example))
    assert again.state_dict().keys() == done.state_dict().keys()
    assert len(list(again.parameters())) == len(list(done.parameters()))
    again.train()(example)


def test_a_model_of_the_original_class_comes_back() -> None:
    model, example = ZOO["mobilenet"]()
    surgery = cut(couple(model, example), {"expand.0": [0, 3], "stem.0": [1]}).surgery
    smaller = cut_in_place(copy.deepcopy(model), surgery)
    fresh, _ = ZOO["mobilenet"]()
    again = restore(fresh, Surgery.from_json(surgery.to_json()), smaller.state_dict())
    assert torch.equal(again.eval()(example), smaller.eval()(example))


def test_tensors_that_do_not_fit_are_refused() -> None:
    model, example = ZOO["mobilenet"]()
    surgery = cut(couple(model, example), {"expand.0": [0, 3]}).surgery
    with pytest.raises(ArtifactError, match="do not fit MobileNet"):
        restore(copy.deepcopy(model), surgery, model.state_dict())


def test_a_surgery_for_another_model_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"weight has shape \(2, 3\).*keeps index 5 of dimension 0"):
        cut_in_place(nn.Linear(3, 2), Surgery({"weight": {0: np.array([1, 5])}}))


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        '{"schema": 2, "parameters": {}}',
        '{"parameters": {}}',
        '{"schema": 1, "parameters": {"w": {"0": [2, 1]}}}',
        '{"schema": 1, "parameters": {"w": {"0": [-1, 1]}}}',
        '{"schema": 1, "parameters": {"w": {"zero": [0.5]}}}',
        "[]",
    ],
)
def test_a_damaged_surgery_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"surgery|schema"):
        Surgery.from_json(text)


def test_a_model_that_is_no_graph_cannot_be_saved_as_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="Linear is no graph"):
        save_graph(nn.Linear(2, 2), tmp_path / "graph.json")


def _tampered(path: Path, change: object) -> dict[str, torch.Tensor]:
    model, example = ZOO["gated mlp"]()
    graph = cut(couple(model, example), {"up": [0]}).module
    save_graph(graph, path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return graph.state_dict()


def _retarget(target: str) -> object:
    def change(data: dict) -> None:
        next(row for row in data["nodes"] if row[1] == "call_function")[2] = target

    return change


@pytest.mark.parametrize(
    "change",
    [
        _retarget("os.system"),
        _retarget("builtins.eval"),
        _retarget("aten.from_file.default"),
        _retarget("aten.__class__.__init__"),
        _retarget("operator.call"),
        _retarget("aten.linear.nothing"),
        lambda data: data["nodes"].insert(0, ["x); import os; (", "placeholder", "x", {"tuple": []}, {"dict": []}]),
        lambda data: data["nodes"].insert(0, ["a", "get_attr", "a'); import os", {"tuple": []}, {"dict": []}]),
        lambda data: data["nodes"].insert(0, ["a", "call_module", "up", {"tuple": []}, {"dict": []}]),
        lambda data: data["nodes"].insert(0, ["a", "get_attr", "missing.weight", {"tuple": []}, {"dict": []}]),
        lambda data: data.update(schema=9),
        lambda data: data.update(format="something"),
        lambda data: data.pop("signature"),
        lambda data: data["nodes"].append("row"),
    ],
)
def test_a_tampered_graph_is_refused(change: object, tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    tensors = _tampered(path, change)
    with pytest.raises(ArtifactError, match=r"graph\.json"):
        restore_graph(path, tensors)


def test_a_missing_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"graph\.json"):
        restore_graph(tmp_path / "graph.json", {})

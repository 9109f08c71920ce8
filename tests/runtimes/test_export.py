"""Models of every kind go through export; those that cannot be judged are refused with the reason."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from penjing.errors import ArtifactError, CaptureError, RuntimeUnavailable, ShapeError, WorkloadError
from penjing.recipe import PruneChannels, Quantize
from penjing.runtimes import RUNTIMES, Record, export, load, register_runtime
from penjing.techniques import apply
from penjing.workload import Workload


class Pair(NamedTuple):
    low: Tensor
    high: Tensor


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


class Returns(nn.Module):
    """A linear map whose output is shaped by a function."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 2)
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        return self.shape(self.linear(x))


@pytest.mark.parametrize(
    ("shape", "pick"),
    [
        (lambda y: y, lambda out: out),
        (lambda y: (y.sum(), [y, y]), lambda out: out[1][1]),
        (lambda y: Pair(-y, y), lambda out: out.high),
        (lambda y: Output(None, y), lambda out: out.logits),
        (lambda y: {"a": {"b": y}, "n": 2}, lambda out: out["a"]["b"]),
    ],
    ids=["tensor", "nested", "namedtuple", "dataclass", "dict"],
)
def test_outputs_come_back_in_their_structure(tmp_path: Path, shape: Any, pick: Any) -> None:
    model, x = Returns(shape).eval(), torch.randn(4, 3)
    actual = export(model, x, tmp_path / "a").load()(x)
    torch.testing.assert_close(pick(actual), model.linear(x))


def test_a_record_has_names_and_positions(tmp_path: Path) -> None:
    x = torch.randn(2, 3)
    out = export(Returns(lambda y: Output(None, y)), x, tmp_path / "a").load()(x)
    assert isinstance(out, Record)
    assert out.loss is None
    assert out[1] is out.logits
    with pytest.raises(AttributeError, match="loss, logits"):
        _ = out.scores


def test_inputs_may_be_nested_and_constant(tmp_path: Path) -> None:
    class Nested(nn.Module):
        def forward(self, states: tuple[Tensor, dict[str, Tensor]], *, double: bool = False) -> Tensor:
            total = states[0] + states[1]["h"]
            return total * 2 if double else total

    a, b = torch.randn(2, 3), torch.randn(2, 3)
    session = export(Nested(), (((a, {"h": b}),), {"double": True}), tmp_path / "a").load()
    torch.testing.assert_close(session((a, {"h": b}), double=True), (a + b) * 2)
    torch.testing.assert_close(session((a, {"h": b})), (a + b) * 2)
    with pytest.raises(WorkloadError, match=r"double.*False.*True"):
        session((a, {"h": b}), double=False)
    with pytest.raises(WorkloadError, match="twice"):
        session((a, {"h": b}), states=a)
    with pytest.raises(WorkloadError, match="by position"):
        session(a, a)


def test_a_captured_graph_can_be_exported(tmp_path: Path) -> None:
    model, x = Returns(lambda y: y.relu()).eval(), torch.randn(2, 3)
    graph = torch.export.export(model, (x,), dynamic_shapes=({0: Dim.DYNAMIC},)).module()
    session = export(graph, x, tmp_path / "a").load()
    more = torch.randn(5, 3)
    torch.testing.assert_close(session(more), model(more))


def test_an_output_may_be_an_input_or_a_constant(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return x, torch.arange(3), x.argmax(1)

    x = torch.tensor([[1.0, 3.0], [5.0, 2.0]])
    same, constant, index = export(Plain(), x, tmp_path / "a").load()(x)
    assert torch.equal(same, x)
    assert constant.tolist() == [0, 1, 2]
    assert index.tolist() == [1, 0]


def test_declared_sizes_are_free_and_others_fixed(tmp_path: Path) -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(1)

    shapes = {"x": {0: Dim("rows"), 1: Dim("length", max=64)}}
    artifact = export(Mean(), torch.randn(2, 7, 3), tmp_path / "a", dynamic_shapes=shapes)
    assert artifact.manifest.inputs[0]["shape"] == ["rows", "length", 3]
    assert artifact.load()(torch.randn(4, 9, 3)).shape == (4, 3)

    fixed = export(Mean(), torch.randn(2, 7, 3), tmp_path / "b", dynamic_shapes={})
    with pytest.raises(ShapeError, match=r"\[2, 7, 3\]"):
        fixed.load()(torch.randn(3, 7, 3))
    with pytest.raises(WorkloadError, match=r"'y'.*inputs are x"):
        export(Mean(), torch.randn(2, 7, 3), tmp_path / "c", dynamic_shapes={"y": {0: Dim("n")}})


class Adds(nn.Module):
    """Add rows that are not made for any number of samples."""

    def __init__(self, rows: Any) -> None:
        super().__init__()
        self.linear, self.rows = nn.Linear(3, 2), rows

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.rows()  # type: ignore[no-any-return]


def test_a_fixed_batch_is_refused_with_the_remedy(tmp_path: Path) -> None:
    model, x = Adds(lambda: torch.zeros(8, 2)), torch.randn(8, 3)
    with pytest.raises(CaptureError) as caught:
        export(model, x, tmp_path / "a")
    assert str(caught.value) == (
        "Adds fixes its batch at 8: its forward computes with that number; write it for any batch, or pass "
        "dynamic_shapes={} to export it for batches of 8 alone"
    )
    assert export(model, x, tmp_path / "a", dynamic_shapes={}).load()(x).shape == (8, 2)


def test_another_fixed_size_is_named(tmp_path: Path) -> None:
    model, x = Adds(lambda: torch.zeros(5, 2)), torch.randn(4, 5, 3)
    shapes = {"x": {0: Dim("rows"), 1: Dim("length")}}
    with pytest.raises(CaptureError, match=r"Adds fixes dimension 1 of 'x' at 5: .*; leave it out of dynamic_shapes"):
        export(model, x, tmp_path / "a", dynamic_shapes=shapes)
    assert export(model, x, tmp_path / "a", dynamic_shapes={"x": {0: Dim("rows")}}).manifest.inputs[0]["shape"] == [
        "rows",
        5,
        3,
    ]


@pytest.mark.parametrize(("batch", "shape", "fails_at"), [(1, (1, 2), r"\[2, 3\]"), (8, (-1, 2, 2), r"\[9, 3\]")])
def test_a_model_that_fails_at_another_batch_is_told_the_remedy(
    tmp_path: Path, batch: int, shape: tuple[int, ...], fails_at: str
) -> None:
    model, x = Returns(lambda y: y.reshape(shape)), torch.randn(batch, 3)
    with pytest.raises(WorkloadError, match=f"Returns fails on inputs of shape {fails_at}.*pass dynamic_shapes={{}}"):
        export(model, x, tmp_path / "a")
    assert export(model, x, tmp_path / "a", dynamic_shapes={}).load()(x).shape == model(x).shape


def test_a_size_that_must_be_even_is_quoted_without_the_settings_of_torch(tmp_path: Path) -> None:
    model = Returns(lambda y: y.reshape(2, -1)[:, :1])
    with pytest.raises(CaptureError, match=r"cannot capture Returns: .*% 2\) == 0") as caught:
        export(model, torch.randn(8, 3), tmp_path / "a", dynamic_shapes={"x": {0: Dim("n")}})
    assert "TORCH_LOGS" not in str(caught.value)
    assert "Constraints violated" not in str(caught.value)


@pytest.mark.parametrize("recipe", [PruneChannels(ratio=0.5, allow_inexact=True), Quantize(method="minmax")])
def test_a_graph_captured_at_a_fixed_batch_exports_at_it(tmp_path: Path, recipe: Any) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).reshape(4, 8).relu())  # type: ignore[no-any-return]

    x = torch.randn(4, 3)
    workload = Workload(Fixed(), x, calibration=[x, x + 1], dynamic_shapes={})
    model = apply(workload, [recipe], prefer="graph").model
    with pytest.raises(CaptureError, match="fixes its batch at 4"):
        export(model, x, tmp_path / "a")
    run = export(model, x, tmp_path / "a", dynamic_shapes={}).load()
    assert torch.as_tensor(run(x)).allclose(model(x), atol=0.05)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (Returns(lambda y: y / 0), torch.ones(2, 3), "NaN or infinite"),
        (Returns(lambda y: y).double(), torch.ones(2, 3).double(), "float64.*float()"),
        (Returns(lambda y: y).bfloat16(), torch.ones(2, 3).bfloat16(), "bfloat16.*float()"),
        (Returns(lambda y: {1: y}), torch.ones(2, 3), "dict"),
        (Returns(lambda y: (y, {"a": {y}})), torch.ones(2, 3), r"output\[1\]\['a'\] is a set"),
        (lambda x: x, torch.ones(2, 3), "torch.nn.Module"),
    ],
    ids=["nan", "float64", "bfloat16", "integer-keys", "set", "function"],
)
def test_models_that_cannot_be_judged(tmp_path: Path, model: Any, x: Tensor, message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        export(model, x, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_float16_has_its_own_tolerance(tmp_path: Path) -> None:
    model, x = Returns(lambda y: y).half(), torch.randn(8, 3).half()
    out = export(model, x, tmp_path / "a").load()(x)
    assert out.dtype == torch.float16
    with pytest.raises(ArtifactError, match=r"tolerance 1e-12"):
        export(Returns(lambda y: torch.softmax(y * 3, 1)), torch.randn(64, 3), tmp_path / "b", tolerance=1e-12)


def test_a_failed_export_leaves_the_old_folder(tmp_path: Path) -> None:
    x = torch.ones(2, 3)
    export(Returns(lambda y: y), x, tmp_path / "a")
    with pytest.raises(WorkloadError):
        export(Returns(lambda y: y / 0), x, tmp_path / "a")
    assert load(tmp_path / "a")(x).shape == (2, 2)


def test_folders_that_are_not_artifacts(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere"):
        load(tmp_path / "nowhere")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "weights.bin").write_bytes(b"1")
    with pytest.raises(ArtifactError, match="foreign"):
        load(tmp_path / "foreign")


def test_runtimes_are_known_by_name() -> None:
    with pytest.raises(RuntimeUnavailable, match=r"'tensorrt'.*'onnxruntime'"):
        export(nn.Linear(1, 1), torch.zeros(1, 1), "unused", "tensorrt")
    with pytest.raises(ValueError, match=r"onnxruntime.*already"):
        register_runtime(RUNTIMES["onnxruntime"])

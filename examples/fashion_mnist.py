"""Make a ResNet for Fashion-MNIST smaller and faster under a contract, and certify it on all 10,000 test images.

    python examples/fashion_mnist.py --budget 40m                     # ResNet-20
    python examples/fashion_mnist.py --model resnet18 --budget 3h

The four IDX files are read from --data (Debian's package dataset-fashion-mnist puts them into the default folder;
https://github.com/zalandoresearch/fashion-mnist tells where else they are). The trained original is kept in --cache.
"""

import argparse
import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import penjing as pj
from penjing.workload.samples import resnet18, resnet20

DATA = Path("/usr/share/datasets/fashion-mnist")
MODELS = {"resnet20": resnet20, "resnet18": resnet18}
HELD_OUT = 5_000


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of bytes (two zero bytes, type, rank, big-endian sizes, data), gzipped or not."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if raw[:3] != b"\x00\x00\x08":
        raise SystemExit(f"{path} is no IDX file of bytes")
    sizes = np.frombuffer(raw, ">u4", count=raw[3], offset=4).astype(int)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(sizes).copy())


def load(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Load one part ("train" or "t10k"): images [n, 1, 28, 28] normalised float32, labels [n] int64."""
    found = []
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        paths = sorted(folder.glob(f"{part}-{kind}*"))
        if not paths:
            raise SystemExit(f"no {part}-{kind}[.gz] in {folder}: install dataset-fashion-mnist or give --data")
        found.append(read_idx(paths[0]))
    images, labels = found
    return (images[:, None].float() / 255 - 0.2860) / 0.3530, labels.long()


class Augmented:
    """Batches of training images, shuffled, flipped and shifted by up to two pixels: new ones at each pass."""

    def __init__(self, images: Tensor, labels: Tensor, batch_size: int = 128, seed: int = 0) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images), generator=self.generator)
        for i in range(len(self)):
            index = order[i * self.batch_size : (i + 1) * self.batch_size]
            flip = torch.rand(len(index), 1, 1, 1, generator=self.generator) < 0.5
            x = torch.where(flip, self.images[index].flip(3), self.images[index])
            down, right = torch.randint(0, 5, (2,), generator=self.generator).tolist()
            x = F.pad(x, (2, 2, 2, 2), value=float(self.images.min()))[:, :, down : down + 28, right : right + 28]
            yield x, self.labels[index]


def batches(images: Tensor, labels: Tensor, size: int = 500) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(size), labels.split(size), strict=True))


def workload(model: nn.Module, folder: Path, *, batch: int = 32, seed: int = 0, name: str | None = None) -> pj.Workload:
    """Give the workload: 55,000 images train, the last 5,000 of the training file search, the test file certifies."""
    images, labels = load(folder, "train")
    test = load(folder, "t10k")
    return pj.Workload(
        model,
        images[:batch],
        train=Augmented(images[:-HELD_OUT], labels[:-HELD_OUT], seed=seed),
        calibration=batches(images[:1024], labels[:1024], 256),
        evaluation=batches(images[-HELD_OUT:], labels[-HELD_OUT:]),
        certificate=batches(*test),
        metric=pj.metrics.accuracy(),
        loss=nn.functional.cross_entropy,
        name=name,
    )


def trained(kind: str, folder: Path, cache: Path, epochs: int, seed: int = 0) -> nn.Module:
    """Train the original, or load it from the cache."""
    from penjing.training import finetune

    torch.manual_seed(seed)
    model = MODELS[kind]()
    saved = cache / f"{kind}-fashion-{epochs}-epochs-seed-{seed}.safetensors"
    if saved.exists():
        model.load_state_dict(load_file(saved))
        return model.eval()
    step = pj.Finetune(epochs=epochs, lr=0.1, weight_decay=5e-4, warmup=0.15, distill=False)
    log = finetune(model, workload(model, folder), step, seed=seed)
    print(log.summary())
    cache.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, saved)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="resnet20")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the four IDX files")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), help="where the trained original is kept")
    parser.add_argument("--epochs", type=int, default=14, help="epochs of the original")
    parser.add_argument("--budget", default="40m", help="time for the search, such as 90s, 40m or 2h")
    parser.add_argument("--max-drop", type=float, default=0.01, help="accuracy that may be lost, 0.01 is one point")
    parser.add_argument("--out", type=Path, default=None, help="run folder (default: runs/fashion-MODEL)")
    args = parser.parse_args()

    model = trained(args.model, args.data, args.cache, args.epochs)
    run = pj.optimize(
        workload(model, args.data, name=f"{args.model} on Fashion-MNIST"),
        pj.Contract(max_drop=args.max_drop),
        budget=args.budget,
        out=args.out or Path("runs") / f"fashion-{args.model}",
    )
    print(run.summary())


if __name__ == "__main__":
    main()

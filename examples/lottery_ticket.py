"""Find a lottery ticket: a sparse network that learns from its own first weights, but not as well from others.

    python examples/lottery_ticket.py            # a minute or two on the packaged digits

Each round trains, prunes a share of the weights that are left, and rewinds the rest to what they were at the start
(Frankle and Carbin 2019, arXiv:1803.03635). At the end the ticket, and the same mask on fresh weights, are trained.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import penjing as pj
from penjing.workload import digits


def network(seed: int) -> nn.Module:
    """Give an untrained network."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))


def workload(model: nn.Module) -> pj.Workload:
    """Give the digits: 797 to learn from, 1,000 to look at."""
    images, labels = digits()

    def batches(start: int, stop: int) -> list[tuple[Tensor, Tensor]]:
        return list(zip(images[start:stop].split(32), labels[start:stop].split(32), strict=True))

    train, evaluation = batches(0, 797), batches(797, 1797)
    return pj.Workload(
        model, images[:2], train=train, evaluation=evaluation, loss=nn.functional.cross_entropy, split_seed=0
    )


def tickets(rounds: int, share: float, train: pj.Finetune, seed: int) -> list[tuple[float, float, float]]:
    """Give, round by round, the share that lives, and the accuracy of the ticket and of its mask on fresh weights."""
    given = workload(network(seed))
    found = []
    with TemporaryDirectory() as folder:
        fresh = Path(folder) / "fresh.safetensors"
        save_file(network(seed + 1).state_dict(), fresh)
        for done in range(rounds + 1):
            steps = done * [train, pj.Sparsify(share), pj.Rewind()]
            ticket, other = (
                given.evaluate(pj.apply(given, [*steps, *last, train], seed=seed).model)[0].value
                for last in ([], [pj.Rewind(fresh)])
            )
            found.append(((1 - share) ** done, ticket, other))
    return found


def main() -> None:
    """Print the accuracies, a line for each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.5, help="of the weights that are left, pruned in each round")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    train = pj.Finetune(epochs=given.epochs, lr=0.1, distill=False, precision="fp32")
    print("alive   ticket  mask on fresh weights")
    for alive, ticket, other in tickets(given.rounds, given.share, train, given.seed):
        print(f"{alive:6.1%}  {ticket:6.1%}  {other:6.1%}")


if __name__ == "__main__":
    main()

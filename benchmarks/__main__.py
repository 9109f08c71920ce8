"""Run the benchmarks, each in a process of its own, in order.

    python -m benchmarks                        # all; says what each is and how long it took
    python -m benchmarks widths quantize_peer   # these
    python -m benchmarks --list

A benchmark that fails does not stop the others; it is named at the end and the exit code is 1. Options are those of
each module: `python -m benchmarks.widths --help`. Figures go to benchmarks/results/.
"""

import argparse
import ast
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOM = Path(__file__).parent

# From seconds to the better part of an hour.
ORDER = (
    "import_time",
    "profile_speed",
    "structure_speed",
    "dynamic_lstm",
    "weight_forms",
    "products",
    "quantize_peer",
    "quantize_resnet20",
    "quantize_silero",
    "parity",
    "demo",
    "self_ratio",
    "widths",
    "capability",
    "latency_model",
    "quantize_efficientnet",
    "quantize_minilm",
    "k_sparse",
    "retrained_resnet20",
    "latency_budget",
    "deploy_resnet20",
    "depth",
    "factorize",
    "cluster",
    "verdict_size",
    "resnet20_fashion",
    "resnet20_peer",
    "coverage",
)
USUAL = {
    "import_time": "3 minutes",
    "profile_speed": "1 minute",
    "structure_speed": "4 minutes, 8 GB of memory",
    "dynamic_lstm": "1 minute",
    "weight_forms": "3 minutes",
    "products": "4 minutes",
    "quantize_peer": "2 minutes",
    "quantize_resnet20": "8 minutes, and 15 more to train",
    "quantize_silero": "8 minutes",
    "quantize_efficientnet": "20 minutes, 5 GB of memory",
    "quantize_minilm": "30 minutes",
    "retrained_resnet20": "an hour, and 15 minutes more to train",
    "k_sparse": "30 minutes, and 15 more to train",
    "parity": "6 minutes",
    "demo": "3 minutes",
    "self_ratio": "10 minutes",
    "widths": "6 minutes",
    "capability": "5 minutes",
    "latency_model": "15 minutes",
    "latency_budget": "10 minutes, and 8 more to train",
    "deploy_resnet20": "2 minutes, and 8 more to train",
    "depth": "5 minutes, and 20 more the first time",
    "factorize": "10 minutes, and 15 more to train",
    "cluster": "3 minutes, and 15 more to train",
    "verdict_size": "10 minutes",
    "resnet20_fashion": "1 hour, and 20 minutes more the first time",
    "resnet20_peer": "2 hours, and 1 more the first time",
    "coverage": "1 hour; what has a result of the same code is skipped",
}


def headline(name: str) -> str:
    """Give the first line of a benchmark's docstring, without importing it."""
    text = ast.get_docstring(ast.parse((ROOM / f"{name}.py").read_text("utf-8")))
    return (text or "").partition("\n")[0]


def run(names: Sequence[str]) -> list[str]:
    """Run benchmarks one after another; give the names of those that failed."""
    failed = []
    for i, name in enumerate(names, 1):
        print(f"\n[{i}/{len(names)}] {name}: {headline(name)} (about {USUAL[name]})", flush=True)
        start = time.perf_counter()
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], cwd=ROOM.parent).returncode
        print(
            f"{name} took {time.perf_counter() - start:.0f} s" + (f" and failed ({code})" if code else ""), flush=True
        )
        if code:
            failed.append(name)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(ORDER)}; none: all")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    args = parser.parse_args(arguments)
    if unknown := [name for name in args.names if name not in ORDER]:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(ORDER)}")
    if args.list:
        for name in ORDER:
            print(f"{name:21} {headline(name)} (about {USUAL[name]})")
        return 0
    failed = run(args.names or ORDER)
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

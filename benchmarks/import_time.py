"""What `import penjing` adds to `import torch`: fresh processes, in turns; the target is at most 0.3 s.

    python -m benchmarks.import_time [--rounds 11]

Each process times its own statements, so that starting Python does not count. `added_s` is the paired difference to
`import torch` in the same round. Processor time is given beside wall time: other work on the machine disturbs it less.
"""

import argparse
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks.common import record

TARGET_S = 0.3
STATEMENTS = {
    "import torch": "import torch",
    "import torch, penjing": "import torch, penjing",
    "first use of penjing.optimize": "import torch, penjing; penjing.optimize",
}
PROBE = """
import time
wall, running = time.perf_counter(), time.process_time()
{statement}
print(time.perf_counter() - wall, time.process_time() - running)
"""
HEAVY = """
import sys, torch
before = set(sys.modules)
import penjing
{use}
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)))
"""


def once(statement: str) -> tuple[float, float]:
    """Time a statement in a fresh process: seconds by the clock, and of the processor."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)], stdout=subprocess.PIPE, text=True, check=True
    )
    wall, running = map(float, done.stdout.split())
    return wall, running


def packages(use: str) -> list[str]:
    """Give the packages beyond torch's own that importing penjing, and `use`, loads."""
    done = subprocess.run([sys.executable, "-c", HEAVY.format(use=use)], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()


def spread(values: Any) -> dict[str, float]:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": float(median), "quartile_low": float(low), "quartile_high": float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()

    for statement in STATEMENTS.values():
        once(statement)  # the disk cache is warm for all
    times = np.array([[once(statement) for statement in STATEMENTS.values()] for _ in range(args.rounds)])
    rows: dict[str, Any] = {}
    for i, name in enumerate(STATEMENTS):
        added = times[:, i] - times[:, 0]
        rows[name] = {
            "wall_s": spread(times[:, i, 0]),
            "cpu_s": spread(times[:, i, 1]),
            "added_wall_s": spread(added[:, 0]),
            "added_cpu_s": spread(added[:, 1]),
        }
        wall, cpu = rows[name]["added_wall_s"], rows[name]["added_cpu_s"]
        print(
            f"{name:30} {rows[name]['wall_s']['median']:6.3f} s; adds {wall['median']:6.3f} s "
            f"[{wall['quartile_low']:.3f}, {wall['quartile_high']:.3f}], of the processor {cpu['median']:.3f} s"
        )
    added = rows["import torch, penjing"]["added_wall_s"]["median"]
    print(f"target: at most {TARGET_S} s; {'met' if added <= TARGET_S else 'missed'}")
    record(
        "import_time",
        {
            "rounds": args.rounds,
            "target_s": TARGET_S,
            "met": bool(added <= TARGET_S),
            "rows": rows,
            "packages_imported": {"import penjing": packages(""), "penjing.optimize": packages("penjing.optimize")},
        },
    )


if __name__ == "__main__":
    main()

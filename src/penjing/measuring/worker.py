"""One copy of a model under `throughput`: python -m penjing.measuring.worker ARTIFACT INPUTS.npz [CORE ...].

Says the nanoseconds of a call once it is warm, reads "BEGIN END" (of the monotonic clock, which processes share), runs
from now until a call ends behind END, and says in JSON when each call ended, and the share of the time in which its
calling thread had a core.
"""

import gc
import json
import os
import sys
import time

import numpy as np

from penjing.measuring.timing import bind, warm_up
from penjing.runtimes import load


def main(arguments: list[str]) -> None:
    """Warm up, wait for the window, run through it."""
    path, inputs, *cores = arguments
    if cores:
        os.sched_setaffinity(0, map(int, cores))
    with np.load(inputs, allow_pickle=False) as archive:
        feeds = [archive[name] for name in archive.files]
    call = bind(load(path).run, feeds)
    print(int(warm_up(call, 1.0)), flush=True)
    _, end = map(int, sys.stdin.readline().split())
    gc.disable()
    had = time.thread_time_ns()
    finished = [time.monotonic_ns()]
    while finished[-1] < end:
        call()
        finished.append(time.monotonic_ns())
    running = (time.thread_time_ns() - had) / (finished[-1] - finished[0])
    print(json.dumps({"finished": finished, "running": running}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

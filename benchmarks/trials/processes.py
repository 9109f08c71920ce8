"""Run a function in a forked process with limits on time and memory; what it told before it died is kept."""

import multiprocessing
import resource
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

Tell = Callable[..., None]


def limited(function: Callable[[Tell], None], *, cpu_s: int, wall_s: float, memory_bytes: int) -> dict[str, Any]:
    """Run `function(tell)` in a process of its own; give everything that it told, by keyword.

    A function that raised, ran out of processor time or was killed leaves what it told, and "died" says how.

    >>> limited(lambda tell: tell(answer=42), cpu_s=5, wall_s=60, memory_bytes=2**33)
    {'answer': 42}
    """
    context = multiprocessing.get_context("fork")  # what is imported here need not be imported there
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(function, sender, cpu_s, memory_bytes), daemon=True)
    process.start()
    sender.close()
    told: dict[str, Any] = {}
    deadline = time.monotonic() + wall_s
    while receiver.poll(max(0.0, deadline - time.monotonic())):
        try:
            told.update(receiver.recv())
        except EOFError:
            break
    else:
        process.kill()
        told["died"] = f"no end after {wall_s:g} s"
    process.join()
    if process.exitcode and "died" not in told:
        told["died"] = (
            f"no end after {cpu_s} s of processor time" if process.exitcode in (-24, -9) else _signal(process)
        )
    return told


def _signal(process: Any) -> str:
    return f"it ended with code {process.exitcode}"


def _run(function: Callable[[Tell], None], sender: Connection, cpu_s: int, memory_bytes: int) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    try:
        function(lambda **told: sender.send(told))
    except Exception as problem:  # a trial may end in any way, and how is its result
        traceback.print_exc()
        sender.send({"died": one_line(problem)})


def one_line(problem: BaseException, length: int = 300) -> str:
    """The kind of an exception and the first line of its message."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0] if lines else ''}"[:length]

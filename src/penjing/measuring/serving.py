"""Latency under load: requests that arrive when they arrive, whether or not the server has answered the last.

Arrivals are a Poisson process, fixed before the first is sent (open loop). A latency counts from the moment at which a
request was due, not from when it could be sent, so that a server that stalls is charged for all that waited meanwhile
(Tene 2013, "How NOT to Measure Latency", calls the other way coordinated omission; Schroeder et al. 2006, "Open Versus
Closed: A Cautionary Tale", NSDI, shows how far closed loops flatter).
"""

import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penjing.errors import RunError
from penjing.measuring.machine import Machine, machine
from penjing.measuring.paired import threads_of
from penjing.measuring.statistics import Floats
from penjing.measuring.wire import ANSWER, HEAD, REQUEST, pack_request, receive
from penjing.runtimes import Artifact
from penjing.runtimes.signature import Array
from penjing.workload import ExampleInputs

LEAST_FOR_P99 = 100
_SPIN_NS = 200_000  # sleeping is late by some 60 us


@dataclass(frozen=True)
class ServedLatency:
    """Milliseconds from when a request was due until its answer, at `rate` requests per second of `batch` samples.

    Percentiles are of all requests, those that were dropped or came after `timeout_s` counted as endless; None where
    that is the percentile, and for p99 under 100 requests. achieved_rate: answers per second. utilisation: share of the
    time in which the model was running. late_ms: 99th percentile of how late the client itself sent, which is part of
    the latency. overloaded: the backlog grew, so that the figures depend on how long the load lasted.
    """

    rate: float
    achieved_rate: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    utilisation: float
    requests: int
    dropped: int
    timed_out: int
    late_ms: float
    overloaded: bool
    seconds: float
    timeout_s: float
    batch: int
    threads: int
    runtime: str
    machine: Machine

    def to_data(self) -> dict[str, Any]:
        """Give the figures as JSON values."""
        return asdict(self) | {"machine": self.machine.to_data()}

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> "ServedLatency":
        """Read what `to_data` gave."""
        return ServedLatency(**{**data, "machine": Machine.from_data(data["machine"])})

    def __str__(self) -> str:
        tails = (("p50", self.p50_ms), ("p95", self.p95_ms), ("p99", self.p99_ms))
        told = ", ".join(f"{name} {'-' if value is None else f'{value:.3g} ms'}" for name, value in tails)
        text = f"{self.rate:g} requests/s of batch {self.batch}: {told}, {self.achieved_rate:.4g} answered/s, "
        text += f"{self.utilisation:.0%} busy".replace("%", " %")
        for count, what in ((self.dropped, "dropped"), (self.timed_out, "timed out")):
            text += f", {count} {what}" if count else ""
        return text + (", overloaded" if self.overloaded else "")


def serve(
    artifact: Artifact,
    example_inputs: Any,
    *,
    rate: float,
    seconds: float = 5.0,
    seed: int = 0,
    timeout_s: float = 2.0,
) -> ServedLatency:
    """Drive a deployed model, in a process of its own, with Poisson arrivals over loopback.

    rate: requests per second, each with the example's batch. Raises ValueError for a rate or time that is not above 0
    or for a load of no request, RunError, with its last words, when the server fails.
    """
    for name, value in (("rate", rate), ("seconds", seconds), ("timeout_s", timeout_s)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value}: give a finite number above 0")
    due = arrivals(rate, seconds, seed)
    example = ExampleInputs.of(example_inputs)
    feeds = artifact.load().feeds(*example.args, **example.kwargs)
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, *feeds)
        command = [sys.executable, "-m", "penjing.measuring.server", str(artifact.path), str(inputs)]
        pipe = subprocess.PIPE
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        server = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line:
                last = (server.communicate()[1].strip().splitlines() or [f"exit code {server.returncode}"])[-1]
                raise RunError(f"the server of {artifact.path} failed: {last}; run it in this process to see more")
            with socket.create_connection(("127.0.0.1", int(line.split()[0]))) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sent, answered, ran = _drive(connection, feeds, due, timeout_s)
        finally:
            server.kill()
            said = server.communicate()[1]
    if np.isnan(answered).all():
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        raise RunError(
            f"the server of {artifact.path} answered none of {len(due)} requests within {timeout_s} s: {last}; "
            "give a longer timeout_s or a smaller batch"
        )
    return summarize(
        due,
        sent,
        answered,
        ran,
        rate=rate,
        seconds=seconds,
        timeout_s=timeout_s,
        batch=example.batch_size,
        threads=threads_of(artifact),
        runtime=artifact.runtime,
    )


def arrivals(rate: float, seconds: float, seed: int) -> Floats:
    """When requests are due, in seconds from the start: a Poisson process, whose gaps are exponential of mean 1 / rate.

    >>> 9_700 < len(arrivals(1000.0, 10.0, seed=0)) < 10_300
    True
    """
    rng = np.random.default_rng(seed)
    count = math.ceil(rate * seconds + 6 * math.sqrt(rate * seconds) + 10)
    due = np.cumsum(rng.exponential(1 / rate, count))
    due = due[due < seconds]
    if not len(due):
        raise ValueError(f"rate={rate} for seconds={seconds}: not one request is due; give a longer time")
    return due


def summarize(
    due: Floats,
    sent: Floats,
    answered: Floats,
    ran: Floats,
    *,
    rate: float,
    seconds: float,
    timeout_s: float,
    batch: int,
    threads: int,
    runtime: str,
) -> ServedLatency:
    """Make the figures of what happened to each request, all in seconds from the start.

    answered: NaN where no answer came. ran: how long the model ran, 0 where the request was dropped.
    """
    latency = answered - due
    dropped = (ran == 0) & ~np.isnan(answered)
    timed_out = ~dropped & ~(latency <= timeout_s)
    endless = np.where(dropped | timed_out, math.inf, latency)
    done = ~dropped & ~np.isnan(answered)
    end = max(seconds, float(np.max(answered[done], initial=0.0)))

    def percentile(share: float) -> float | None:
        value = float(np.quantile(endless, share, method="higher"))
        return value * 1e3 if math.isfinite(value) else None

    return ServedLatency(
        rate=rate,
        achieved_rate=float(done.sum()) / end,
        p50_ms=percentile(0.5),
        p95_ms=percentile(0.95),
        p99_ms=percentile(0.99) if len(due) >= LEAST_FOR_P99 else None,
        utilisation=min(1.0, float(ran[done].sum()) / end),
        requests=len(due),
        dropped=int(dropped.sum()),
        timed_out=int(timed_out.sum()),
        late_ms=float(np.quantile(sent - due, 0.99)) * 1e3,
        overloaded=bool(dropped.any()) or backlog_grows(due, answered, seconds),
        seconds=seconds,
        timeout_s=timeout_s,
        batch=batch,
        threads=threads,
        runtime=runtime,
        machine=machine(),
    )


def backlog_grows(due: Floats, answered: Floats, seconds: float) -> bool:
    """Whether clearly more requests wait in the last quarter of the time than in the second.

    A server that keeps up has a backlog that comes and goes; one that does not adds to it all the time. What is asked
    for is half as much again and 5 more: at nine tenths of what a server can do, the mean backlog is 5.

    >>> due = np.arange(0.0, 10.0, 0.01)
    >>> backlog_grows(due, due + 0.02, 10.0), backlog_grows(due, due * 1.2, 10.0)
    (False, True)
    """
    ends = np.sort(np.where(np.isnan(answered), math.inf, answered))

    def backlog(start: float, stop: float) -> float:
        times = np.linspace(start * seconds, stop * seconds, 200)
        return float(np.mean(np.searchsorted(due, times) - np.searchsorted(ends, times)))

    return backlog(0.75, 1.0) > 1.5 * backlog(0.25, 0.5) + 5


def _drive(
    connection: socket.socket, feeds: Sequence[Array], due: Floats, timeout_s: float
) -> tuple[Floats, Floats, Floats]:
    """Send each request when it is due and note the answers; give when sent, when answered (NaN: not), how long it ran.

    A thread sends, this one listens, so that a late answer holds no request back.
    """
    sent, answered, ran = np.full(len(due), np.nan), np.full(len(due), np.nan), np.zeros(len(due))
    start = time.monotonic_ns() + 50_000_000

    def send() -> None:
        message = pack_request(0, feeds)
        prefix, suffix = message[: HEAD.size], message[HEAD.size + REQUEST.size :]
        with suppress(OSError):  # closed by the listener, whose time is over: what was not sent stays unanswered
            for number, moment in enumerate(due):
                _wait_until(start + int(moment * 1e9))
                sent[number] = (time.monotonic_ns() - start) / 1e9
                connection.sendall(prefix + REQUEST.pack(number) + suffix)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    last = start + int((due[-1] + timeout_s) * 1e9)
    for _ in due:
        connection.settimeout(max(1e-3, (last - time.monotonic_ns()) / 1e9))
        answer = receive(connection)
        if answer is None:
            break
        number, ran_ns = ANSWER.unpack_from(answer)
        answered[number] = (time.monotonic_ns() - start) / 1e9
        ran[number] = ran_ns / 1e9
    connection.shutdown(socket.SHUT_RDWR)
    sender.join()
    # What was never sent is late by all the time there was.
    return np.where(np.isnan(sent), float(due[-1]) + timeout_s, sent), answered, ran


def _wait_until(moment_ns: int) -> None:
    """Sleep until shortly before, then look at the clock only."""
    while (left := moment_ns - time.monotonic_ns()) > 0:
        time.sleep(max(0.0, (left - _SPIN_NS) / 1e9))

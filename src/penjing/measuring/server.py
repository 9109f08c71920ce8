"""The server that `serve` drives: python -m penjing.measuring.server ARTIFACT INPUTS.npz.

One connection on loopback, one queue, one thread that runs the model with the threads of its manifest. A request is a
number and the bytes of its arrays, whose shapes are those of INPUTS; an answer is the number, how long the model ran in
nanoseconds, and the bytes of the outputs. A request that finds the queue full is dropped: its answer has no outputs and
ran for 0 ns. All messages carry their length in front; nothing is unpickled.
"""

import queue
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np

from penjing.measuring.paired import threads_of
from penjing.measuring.timing import bind, undisturbed, warm_up
from penjing.runtimes import Artifact
from penjing.runtimes.signature import Array

HEAD = struct.Struct("!I")
REQUEST = struct.Struct("!Q")
ANSWER = struct.Struct("!QQ")
QUEUE = 1000


def main(arguments: list[str]) -> None:
    """Load, warm up, say the port and the nanoseconds of a call, serve one connection until it closes."""
    path, inputs = arguments
    artifact = Artifact.open(path)
    with np.load(inputs, allow_pickle=False) as archive:
        example = [archive[name] for name in archive.files]
    with undisturbed(threads_of(artifact)), socket.create_server(("127.0.0.1", 0)) as listening:
        run = artifact.load().run
        call_ns = warm_up(bind(run, example), 1.0)
        print(listening.getsockname()[1], int(call_ns), flush=True)
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting: queue.Queue[bytes | None] = queue.Queue(QUEUE)
        sending = threading.Lock()

        def answer(number: int, ran_ns: int, outputs: Sequence[Array]) -> None:
            body = ANSWER.pack(number, ran_ns) + b"".join(np.ascontiguousarray(each).tobytes() for each in outputs)
            with sending:
                connection.sendall(HEAD.pack(len(body)) + body)

        def work() -> None:
            while (request := waiting.get()) is not None:
                (number,) = REQUEST.unpack_from(request)
                feeds = unpack(request[REQUEST.size :], example)
                start = time.monotonic_ns()
                outputs = run(feeds)
                answer(number, time.monotonic_ns() - start, outputs)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        with connection:
            while (request := receive(connection)) is not None:
                try:
                    waiting.put_nowait(request)
                except queue.Full:
                    answer(REQUEST.unpack_from(request)[0], 0, ())


def pack(number: int, arrays: Sequence[Array]) -> bytes:
    """Write a request, its length in front."""
    body = REQUEST.pack(number) + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return HEAD.pack(len(body)) + body


def unpack(body: bytes, like: Sequence[Array]) -> list[Array]:
    """Read arrays of the shapes and types of `like` back from their bytes.

    >>> unpack(np.arange(4.0).tobytes(), [np.zeros((2, 2))])[0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    arrays, start = [], 0
    for array in like:
        flat = np.frombuffer(body, array.dtype, array.size, start)
        arrays.append(flat.reshape(array.shape))
        start += array.nbytes
    return arrays


def receive(connection: socket.socket) -> bytes | None:
    """Read one message; None when the other side has closed."""
    head = _exactly(connection, HEAD.size)
    return None if head is None else _exactly(connection, HEAD.unpack(head)[0])


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        try:
            part = connection.recv(min(size, 1 << 20))
        except OSError:  # reset, closed from another thread, or its time is up: the conversation is over
            return None
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The server that `serve` drives: python -m penjing.measuring.server ARTIFACT INPUTS.npz.

One connection on loopback, one queue, one thread that runs the model with the threads of its manifest. A request that
finds the queue full is dropped: its answer has no outputs and ran for 0 ns. Messages are those of `wire`.
"""

import queue
import socket
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np

from penjing.measuring.paired import threads_of
from penjing.measuring.timing import bind, undisturbed, warm_up
from penjing.measuring.wire import REQUEST, pack_answer, receive, unpack
from penjing.runtimes import Artifact
from penjing.runtimes.signature import Array

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
            message = pack_answer(number, ran_ns, outputs)
            with sending:
                connection.sendall(message)

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


if __name__ == "__main__":
    main(sys.argv[1:])

"""What client and server say to each other: messages with their length in front, arrays as their bytes, no pickle.

A request is a number and its arrays, whose shapes both sides know. An answer is the number, how long the model ran in
nanoseconds, and the outputs.
"""

import socket
import struct
from collections.abc import Sequence

import numpy as np

from penjing.runtimes.signature import Array

HEAD = struct.Struct("!I")
REQUEST = struct.Struct("!Q")
ANSWER = struct.Struct("!QQ")


def pack_request(number: int, arrays: Sequence[Array]) -> bytes:
    """Write a request, its length in front."""
    return _framed(REQUEST.pack(number), arrays)


def pack_answer(number: int, ran_ns: int, arrays: Sequence[Array]) -> bytes:
    """Write an answer, its length in front."""
    return _framed(ANSWER.pack(number, ran_ns), arrays)


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


def _framed(head: bytes, arrays: Sequence[Array]) -> bytes:
    body = head + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return HEAD.pack(len(body)) + body


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

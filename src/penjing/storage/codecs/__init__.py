"""Exact compact storage of a tensor's bytes: each codec is a function to fewer bytes, and one back."""

from collections.abc import Callable
from dataclasses import dataclass

from penjing.storage.codecs.chunk import Bytes
from penjing.storage.codecs.entropy import entropy_bound
from penjing.storage.codecs.palette import decode_palette, encode_palette
from penjing.storage.codecs.sparse import decode_sparse, encode_sparse

__all__ = ["CODECS", "Bytes", "Codec", "entropy_bound", "smallest"]


@dataclass(frozen=True)
class Codec:
    """Both ways of a codec.

    encode: (bytes, itemsize) -> chunk, or None where it does not fit. decode: (chunk, itemsize, count, what) -> bytes.
    """

    encode: Callable[[Bytes, int], Bytes | None]
    decode: Callable[[Bytes, int, int, str], Bytes]


CODECS: dict[str, Codec] = {
    "sparse": Codec(encode_sparse, decode_sparse),
    "palette": Codec(encode_palette, decode_palette),
}


def smallest(raw: Bytes, itemsize: int) -> tuple[str, Bytes] | None:
    """The codec that makes the bytes [n * itemsize] of a tensor smallest, and its chunk; None where none helps."""
    chunks = [(name, chunk) for name, codec in CODECS.items() if (chunk := codec.encode(raw, itemsize)) is not None]
    best = min(chunks, key=lambda each: each[1].size)
    return best if best[1].size < raw.size else None

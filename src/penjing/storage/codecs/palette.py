"""Exact compact storage of tensors with at most 256 different elements: a table, and an index for each element.

Content of the chunk, for n elements of which k differ, b = ceil(log2 k) bits for an index:

    size     1 byte                    k - 1
    table    k * itemsize bytes        the different elements, by their bits
    indices  ceil(n / (8 // b)) bytes  8 // b indices to a byte, the first in the lowest bits; none where k is 1

No index lies in two bytes, so that bytes which repeat are indices which repeat, and zstandard brings them near their
entropy. Integers of four bits that lie in bytes are the case k <= 16.
"""

import numpy as np

from penjing.storage.codecs.chunk import Bytes, damaged, open_chunk, seal

MOST = 256
_SAMPLE = 4096


def encode_palette(raw: Bytes, itemsize: int) -> Bytes | None:
    """Compress the bytes [n * itemsize] of a tensor; None where it has no element or more than 256 different ones.

    >>> weight = np.tile(np.array([0.5, -2.0], dtype=np.float32), 4000)
    >>> packed = encode_palette(weight.view(np.uint8), 4)
    >>> packed is not None and packed.size < 100
    True
    """
    elements = raw.view(f"u{itemsize}")
    if not elements.size or np.unique(elements[:_SAMPLE]).size > MOST:
        return None
    table, indices = np.unique(elements, return_inverse=True)
    if table.size > MOST:
        return None
    bits = _bits(table.size)
    content = bytes([table.size - 1]) + table.tobytes()
    return seal(content if bits == 0 else content + _pack(indices.astype(np.uint8), bits).tobytes())


def decode_palette(packed: Bytes, itemsize: int, count: int, what: str = "tensor") -> Bytes:
    """Give back the bytes [count * itemsize] that `encode_palette` compressed.

    Sizes are checked before anything is allocated. Raises ArtifactError, naming `what`, for damaged content.

    >>> raw = np.arange(8, dtype=np.uint8)
    >>> decode_palette(encode_palette(raw, 2), 2, 4).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    content = open_chunk(packed, 1 + itemsize, 1 + MOST * itemsize + count, what)
    size = int(content[0]) + 1
    bits = _bits(size)
    table, indices = np.split(content[1:], [size * itemsize])
    needed = -(-count // (8 // bits)) if bits else 0
    if table.size != size * itemsize or indices.size != needed:
        raise damaged(what, f"{content.size} bytes are no table of {size} and {count} indices")
    places = _unpack(indices, bits, count) if bits else np.zeros(count, dtype=np.uint8)
    if places.max(initial=0) >= size:
        raise damaged(what, f"an index points behind a table of {size}")
    return table.reshape(size, itemsize)[places].reshape(-1)


def _bits(size: int) -> int:
    """Bits of an index into a table of so many."""
    return (size - 1).bit_length()


def _pack(indices: Bytes, bits: int) -> Bytes:
    fit = 8 // bits
    rows = np.pad(indices, (0, -len(indices) % fit)).reshape(-1, fit)
    shifts = bits * np.arange(fit, dtype=np.uint8)
    packed: Bytes = np.bitwise_or.reduce(rows << shifts, axis=1, dtype=np.uint8)
    return packed


def _unpack(packed: Bytes, bits: int, count: int) -> Bytes:
    shifts = bits * np.arange(8 // bits, dtype=np.uint8)
    return ((packed[:, None] >> shifts) & np.uint8(2**bits - 1)).reshape(-1)[:count]

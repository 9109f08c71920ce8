"""Exact compact storage of sparse tensors: a bit for each element, and the values that are not zero.

Content of the chunk, for n elements of which m are not zero (zero: no bit is set but perhaps the sign bit):

    mask     ceil(n / 8) bytes        bit i (least significant first) says whether element i is not zero
    signs    ceil((n - m) / 8) bytes  the sign bits of the zeros
    values   m * itemsize bytes       the elements that are not zero, plane by plane: all first bytes, all second, ...

Every bit comes back, those of -0.0 and NaN included. Signs of zeros have their place because `weight * mask`, the
usual way to prune, turns each negative weight into -0.0. Planes put the sign and exponent bytes, which repeat, next
to each other (the shuffle filter of HDF5 and Blosc). A mask that keeps N of every M needs no codec of its own: its
bytes take few values, and zstandard brings them to their entropy.
"""

import numpy as np
from numpy.typing import NDArray

from penjing.storage.codecs.chunk import Bytes, damaged, open_chunk, seal


def encode_sparse(raw: Bytes, itemsize: int) -> Bytes:
    """Compress the bytes [n * itemsize] of a tensor; exact for every input, small for sparse ones.

    >>> weight = np.zeros(4000, dtype=np.float32)
    >>> weight[7], weight[8] = -0.0, 0.5
    >>> encode_sparse(weight.view(np.uint8), 4).size < 100
    True
    """
    elements = raw.view(f"u{itemsize}")
    sign = elements.dtype.type(1 << (8 * itemsize - 1))
    nonzero = (elements & ~sign) != 0
    planes = elements[nonzero].view(np.uint8).reshape(-1, itemsize).T
    return seal(_pack(nonzero) + _pack(elements[~nonzero] != 0) + planes.tobytes())


def decode_sparse(packed: Bytes, itemsize: int, count: int, what: str = "tensor") -> Bytes:
    """Give back the bytes [count * itemsize] that `encode_sparse` compressed.

    Sizes are checked before anything is allocated. Raises ArtifactError, naming `what`, for damaged content.

    >>> raw = np.arange(8, dtype=np.uint8)
    >>> decode_sparse(encode_sparse(raw, 2), 2, 4).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    content = open_chunk(packed, _packed_size(count), 2 * _packed_size(count) + count * itemsize, what)
    mask, rest = np.split(content, [_packed_size(count)])
    nonzero = _unpack(mask, count)
    zeros = count - int(nonzero.sum())
    signs, values = np.split(rest, [_packed_size(zeros)])
    if values.size != (count - zeros) * itemsize:
        raise damaged(what, f"{count - zeros} elements are marked, {values.size} bytes are there")
    elements = np.empty(count, dtype=f"u{itemsize}")
    elements[nonzero] = np.ascontiguousarray(values.reshape(itemsize, -1).T).view(elements.dtype).reshape(-1)
    elements[~nonzero] = _unpack(signs, zeros).astype(elements.dtype) << elements.dtype.type(8 * itemsize - 1)
    return elements.view(np.uint8)


def _pack(bits: NDArray[np.bool_]) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


def _unpack(packed: Bytes, count: int) -> NDArray[np.bool_]:
    return np.unpackbits(packed, count=count, bitorder="little").astype(bool)


def _packed_size(count: int) -> int:
    return -(-count // 8)

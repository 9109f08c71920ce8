"""What every codec writes: one zstandard frame that says how long its content is, and a checksum of it."""

import numpy as np
import zstandard
from numpy.typing import NDArray

from penjing.errors import ArtifactError

Bytes = NDArray[np.uint8]
LEVEL = 9
SETTINGS = (
    zstandard.ZstdCompressionParameters.from_level(LEVEL, write_checksum=1),
    zstandard.ZstdCompressionParameters.from_level(
        LEVEL, strategy=zstandard.STRATEGY_GREEDY, min_match=7, write_checksum=1
    ),
)
"""The level as it is, for bytes that repeat; and long matches alone, for indices without order, among which short ones
come by chance and cost more than they save."""


def seal(content: bytes) -> Bytes:
    """Compress the content of a chunk, by the setting that makes it smaller.

    >>> open_chunk(seal(b"twelve bytes"), 12, 12, "weight").tobytes()
    b'twelve bytes'
    """
    frames = [zstandard.ZstdCompressor(compression_params=each).compress(content) for each in SETTINGS]
    return np.frombuffer(min(frames, key=len), dtype=np.uint8)


def open_chunk(packed: Bytes, least: int, most: int, what: str) -> Bytes:
    """Give the content of a chunk, which must have from `least` to `most` bytes; that is seen before it is unpacked.

    Raises ArtifactError, naming `what`, for content that is damaged, foreign, or of another size.
    """
    try:
        size = zstandard.frame_content_size(packed.data)
        if not least <= size <= most:
            raise damaged(what, f"{size} bytes are claimed where {least} to {most} can be")
        return np.frombuffer(zstandard.ZstdDecompressor().decompress(packed.data), dtype=np.uint8)
    except zstandard.ZstdError as problem:
        raise damaged(what, str(problem)) from problem


def damaged(what: str, why: str) -> ArtifactError:
    """The error for a chunk that cannot be what was saved."""
    return ArtifactError(f"{what} is damaged ({why}); save it again or take another copy")

"""What a deployed model weighs on disk and on the way to it."""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from penjing.runtimes import Artifact


@dataclass(frozen=True)
class Sizes:
    """Bytes of the deployed files: as they are, by gzip (level 6) and by Zstandard (level 9)."""

    raw_bytes: int
    gzip_bytes: int
    zstd_bytes: int

    def to_data(self) -> dict[str, int]:
        """Give the sizes as JSON values."""
        return asdict(self)

    @staticmethod
    def from_data(data: Mapping[str, int]) -> "Sizes":
        """Read what `to_data` gave."""
        return Sizes(**data)


def sizes(artifact: Artifact) -> Sizes:
    """Weigh the deployed files of an artifact; the manifest does not count."""
    import zstandard

    gzip = zlib.compressobj(6, wbits=31)
    zstd = zstandard.ZstdCompressor(level=9).compressobj()
    raw = gzip_bytes = zstd_bytes = 0
    for chunk in _chunks(artifact):
        raw += len(chunk)
        gzip_bytes += len(gzip.compress(chunk))
        zstd_bytes += len(zstd.compress(chunk))
    return Sizes(raw, gzip_bytes + len(gzip.flush()), zstd_bytes + len(zstd.flush()))


def _chunks(artifact: Artifact) -> Iterator[bytes]:
    for name in artifact.manifest.files:
        with (artifact.path / name).open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk

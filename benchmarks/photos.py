"""Photographs that Linux distributions and Python packages bring along, and random crops of them as networks take them.

Debian's mate-backgrounds, plasma-workspace-wallpapers and lomiri-wallpapers, scikit-image and scikit-learn: each
picture was looked at, and drawings, renderings, and images of microscopes and telescopes were left out. Every fourth
photograph calibrates, and none of those is evaluated on: crops of one photograph resemble each other.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]

SIZE = 224
MEAN = STD = 0.5
"""What EfficientNet-Lite was trained on: (pixel / 255 - 0.5) / 0.5."""
LONGEST = 1600
"""Pixels of the longer side that a photograph is reduced to before crops are taken."""

FOLDERS = {
    "mate-backgrounds": "/usr/share/backgrounds/mate/nature/{}.jpg",
    "plasma-workspace-wallpapers": "/usr/share/wallpapers/{}/contents/images/2560x1600.jpg",
    "lomiri-wallpapers": "/usr/share/backgrounds/{}.jpg",
    "skimage": "data/{}",
    "sklearn": "datasets/images/{}",
}
NAMES = {
    "mate-backgrounds": (
        "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower"
    ),
    "plasma-workspace-wallpapers": (
        "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path summer_1am"
    ),
    "lomiri-wallpapers": (
        "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Kleiber_by_Lukas_Baubkus Picture_0B_by_freespace "
        "Picture_1A_by_freespace Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich "
        "friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi "
        "picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi"
    ),
    "skimage": (
        "astronaut.png brick.png camera.png chelsea.png coffee.png grass.png gravel.png motorcycle_left.png rocket.jpg"
    ),
    "sklearn": "china.jpg flower.jpg",
}


@dataclass(frozen=True)
class Photo:
    """One photograph: the package that brings it, its name there, and whether it calibrates or is evaluated on."""

    package: str
    name: str
    calibrates: bool

    @property
    def path(self) -> Path:
        """Where it is installed."""
        where = FOLDERS[self.package].format(self.name)
        if where.startswith("/"):
            return Path(where)
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"photograph {self.name!r} belongs to {self.package}; pip install {self.package}")
        return Path(spec.origin).parent / where

    def load(self) -> Image.Image:
        """Open it in colour, its longer side at most LONGEST. Raises FileNotFoundError that names the package."""
        if not self.path.exists():
            raise FileNotFoundError(f"there is no {self.path}; install the package {self.package}, which brings it")
        image = Image.open(self.path)
        image.draft("RGB", (LONGEST, LONGEST))
        image = image.convert("RGB")
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        return image


PHOTOS = tuple(
    Photo(package, name, calibrates=i % 4 == 3)
    for i, (package, name) in enumerate((package, name) for package in NAMES for name in NAMES[package].split())
)


def random_crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Take a share of 10 to 100 % of the area, of sides 3:4 to 4:3, in random position, mirrored half the time.

    As in the training of most image classifiers (Szegedy et al. 2015, arXiv:1409.4842), which begins at 8 %.
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(0.1, 1.0)
        sides = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round((area * sides) ** 0.5), round((area / sides) ** 0.5)
        if w <= width and h <= height:
            break
    else:
        w = h = min(width, height)
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    crop = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h), reducing_gap=3.0)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def crops(image: Image.Image, count: int, seed: int) -> Floats:
    """Give `count` random crops, normalised, [count, 3, 224, 224]; the same for the same image and seed."""
    rng = np.random.default_rng(seed)
    pixels = np.stack([np.asarray(random_crop(image, rng), dtype=np.float32) for _ in range(count)])
    return np.ascontiguousarray(((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2))


def crops_of(photos: Sequence[Photo], count: int) -> tuple[Floats, NDArray[np.intp]]:
    """Give `count` crops, as many of each photograph as of any other (or one more), and the photograph of each.

    Crops [count, 3, 224, 224]; photographs [count], numbers within `photos`.
    """
    shares = [len(range(i, count, len(photos))) for i in range(len(photos))]
    parts = [
        crops(photo.load(), share, seed=zlib.crc32(photo.name.encode()))
        for photo, share in zip(photos, shares, strict=True)
        if share
    ]
    return np.concatenate(parts), np.repeat(np.arange(len(photos)), shares)


def calibration(count: int = 300) -> Floats:
    """Crops [count, 3, 224, 224] of the photographs that calibrate, in random order."""
    found, _ = crops_of([photo for photo in PHOTOS if photo.calibrates], count)
    return found[np.random.default_rng(0).permutation(count)]


def evaluation(count: int = 2160) -> tuple[Floats, NDArray[np.intp]]:
    """Crops of the photographs that are evaluated on, and which photograph each is of."""
    return crops_of([photo for photo in PHOTOS if not photo.calibrates], count)

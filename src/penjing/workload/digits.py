"""The packaged digits: 1,797 grey images of 8x8 pixels in ten classes, small enough to travel with the code.

Source: E. Alpaydin, C. Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
doi:10.24432/C50P49, CC BY 4.0 (digits.LICENSE.txt).
"""

from importlib.resources import as_file, files

import numpy as np
import torch
from torch import Tensor

LARGEST_PIXEL = 16


def digits() -> tuple[Tensor, Tensor]:
    """Load the digits: images float32 [1797, 1, 8, 8] in [0, 1], labels int64 [1797].

    >>> images, labels = digits()
    >>> images.shape, labels[:5].tolist()
    (torch.Size([1797, 1, 8, 8]), [0, 1, 2, 3, 4])
    """
    with as_file(files("penjing.workload") / "digits.npz") as path, np.load(path, allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    pixels = torch.from_numpy(images).to(torch.float32).div_(LARGEST_PIXEL)
    return pixels.unsqueeze(1), torch.from_numpy(labels).to(torch.int64)

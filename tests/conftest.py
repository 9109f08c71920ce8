"""Where torchvision is installed, transformers and timm import it: its operators are declared before any test does."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("torchvision") is not None:
    sys.path.append(str(Path(__file__).parents[1]))
    from benchmarks.zoo.torchvision_import import torchvision

    torchvision()

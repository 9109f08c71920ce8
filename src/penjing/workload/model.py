"""What may stand for a model: a module of torch, or an .onnx file."""

from pathlib import Path
from typing import Any

from torch import nn

from penjing.errors import WorkloadError


def is_onnx(value: Any) -> bool:
    """Whether a value is the path of an .onnx file, there or not."""
    return isinstance(value, str | Path) and Path(value).suffix == ".onnx"


def read_model(model: Any) -> nn.Module:
    """A module as it is, and the module of an .onnx file by its path. Raises WorkloadError for anything else.

    >>> read_model(nn.Linear(2, 1))
    Linear(in_features=2, out_features=1, bias=True)
    """
    if isinstance(model, nn.Module):
        return model
    if is_onnx(model):
        from penjing.onnx_import import import_onnx  # onnx is loaded by those alone who bring a file

        return import_onnx(model)
    raise WorkloadError(
        f"model={model!r} ({type(model).__name__}) is no torch.nn.Module; give a trained module, or the path of an "
        ".onnx file"
    )

"""Elementwise operators: arithmetic, comparisons, logic and activations."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from penjing.onnx_import.known import Known, Value, operand, tensor
from penjing.onnx_import.node import DTYPES, Node
from penjing.onnx_import.operators.table import operator

_PAIRS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Equal": torch.eq,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}
_SINGLES: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": torch.bitwise_not,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Det": torch.det,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}


@operator(*_SINGLES)
def single(node: Node, x: Tensor) -> Tensor:
    """y = f(x)."""
    return _SINGLES[node.op](x)


def operands(a: Value, b: Value) -> tuple[Any, Any]:
    """Both operands as torch takes them; two numbers as tensors."""
    if isinstance(a, Known) and isinstance(b, Known):
        return tensor(a), tensor(b)
    return operand(a, b), operand(b, a)


@operator(*_PAIRS, known=(0, 1))
def pair(node: Node, a: Value, b: Value) -> Tensor:
    """y = a (operator) b, broadcast."""
    left, right = operands(a, b)
    if not isinstance(left, Tensor) and node.op not in ("Add", "Mul"):
        left = tensor(a)  # most functions of torch take a number on the right alone
    if not isinstance(right, Tensor) and (node.op.startswith("Bitwise") or node.op in ("And", "Or", "Xor")):
        right = tensor(b)
    return _PAIRS[node.op](left, right) if isinstance(left, Tensor) else _PAIRS[node.op](right, left)


@operator("Div", known=(0, 1))
def div(node: Node, a: Value, b: Value) -> Tensor:
    """y = a / b; whole numbers are rounded towards zero."""
    left, right = operands(a, b)
    left = left if isinstance(left, Tensor) else tensor(a)
    return torch.div(left, right) if left.is_floating_point() else torch.div(left, right, rounding_mode="trunc")


@operator("Mod", known=(1,))
def mod(node: Node, a: Tensor, b: Value) -> Tensor:
    """Remainder with the sign of b, or of a where fmod=1."""
    return (torch.fmod if node.get("fmod", 0) else torch.remainder)(a, operand(b, a))


@operator("Pow", known=(1,))
def power(node: Node, x: Tensor, exponent: Value) -> Tensor:
    """y = x^e in the dtype of x."""
    given = operand(exponent, x)
    return torch.pow(x, given).to(x.dtype)


@operator("BitShift")
def bit_shift(node: Node, x: Tensor, by: Tensor) -> Tensor:
    """Shift bits; the unsigned types that torch cannot shift go through int64."""
    shift = torch.bitwise_left_shift if node.get("direction") == "LEFT" else torch.bitwise_right_shift
    return shift(x.to(torch.int64), by.to(torch.int64)).to(x.dtype)


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def fold(node: Node, *inputs: Tensor) -> Tensor:
        return functools.reduce(function, inputs)

    return fold


operator("Max")(_fold(torch.maximum))
operator("Min")(_fold(torch.minimum))
operator("Sum")(_fold(torch.add))


@operator("Mean")
def mean_of(node: Node, *inputs: Tensor) -> Tensor:
    """Mean of several tensors, broadcast."""
    return functools.reduce(torch.add, inputs) / len(inputs)


@operator("Where", known=(1, 2))
def where(node: Node, condition: Tensor, a: Value, b: Value) -> Tensor:
    """y = a where the condition holds, else b."""
    dtype = next((value.dtype for value in (a, b) if isinstance(value, Tensor)), tensor(a).dtype)
    left, right = (_scalar(value, dtype) for value in (a, b))
    return torch.where(condition, left, right)


def _scalar(value: Value, dtype: torch.dtype) -> Tensor:
    return value.tensor().to(dtype) if isinstance(value, Known) else value


@operator("Clip", known=(1, 2))
def clip(node: Node, x: Tensor, low: Value | None = None, high: Value | None = None) -> Tensor:
    """Limit to [low, high]: attributes before opset 11, inputs since."""
    bounds: list[Any] = [
        node.get(name) if bound is None else (bound.number if isinstance(bound, Known) else bound)
        for name, bound in (("min", low), ("max", high))
    ]
    if bounds == [None, None]:
        return x
    if bounds == [0.0, 6.0]:
        return F.relu6(x)
    if not any(isinstance(bound, Tensor) for bound in bounds):
        return torch.clamp(x, *bounds)
    low_, high_ = bounds
    if low_ is not None:
        x = torch.maximum(x, torch.as_tensor(low_, dtype=x.dtype))
    return x if high_ is None else torch.minimum(x, torch.as_tensor(high_, dtype=x.dtype))


@operator("LeakyRelu")
def leaky_relu(node: Node, x: Tensor) -> Tensor:
    """y = x, or alpha x below zero."""
    return F.leaky_relu(x, node.get("alpha", 0.01))


@operator("PRelu")
def prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    """y = x, or slope * x below zero; the slope is broadcast."""
    return torch.where(x >= 0, x, slope * x)


@operator("Elu")
def elu(node: Node, x: Tensor) -> Tensor:
    """y = x, or alpha (e^x - 1) below zero."""
    return F.elu(x, node.get("alpha", 1.0))


@operator("Celu")
def celu(node: Node, x: Tensor) -> Tensor:
    """y = max(0, x) + min(0, alpha (e^(x / alpha) - 1))."""
    return F.celu(x, node.get("alpha", 1.0))


@operator("Selu")
def selu(node: Node, x: Tensor) -> Tensor:
    """y = gamma x, or gamma alpha (e^x - 1) below zero."""
    alpha = node.get("alpha", 1.67326319217681884765625)
    gamma = node.get("gamma", 1.05070102214813232421875)
    y: Tensor = F.elu(x, alpha) * gamma
    return y


@operator("ThresholdedRelu")
def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    """y = x where x > alpha, else 0."""
    return F.threshold(x, node.get("alpha", 1.0), 0.0)


@operator("HardSigmoid")
def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    """y = alpha x + beta, limited to [0, 1]."""
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@operator("Swish")
def swish(node: Node, x: Tensor) -> Tensor:
    """y = x sigmoid(alpha x)."""
    alpha = node.get("alpha", 1.0)
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(x * alpha)


@operator("Gelu")
def gelu(node: Node, x: Tensor) -> Tensor:
    """Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415), exact or by tanh."""
    return F.gelu(x, approximate=node.get("approximate", "none"))


@operator("Shrink")
def shrink(node: Node, x: Tensor) -> Tensor:
    """y = x - bias above lambd, x + bias below -lambd, else 0."""
    bias, limit = node.get("bias", 0.0), node.get("lambd", 0.5)
    zero = torch.zeros_like(x)
    return torch.where(x > limit, x - bias, torch.where(x < -limit, x + bias, zero))


@operator("IsInf")
def is_inf(node: Node, x: Tensor) -> Tensor:
    """Whether an element is infinite, of the signs that are asked for."""
    above, below = node.get("detect_positive", 1), node.get("detect_negative", 1)
    if above and below:
        return torch.isinf(x)
    if not above and not below:
        return torch.zeros_like(x, dtype=torch.bool)
    return torch.isposinf(x) if above else torch.isneginf(x)


@operator("Dropout", known=(1, 2))
def dropout(node: Node, x: Tensor, ratio: Value | None = None, training: Value | None = None) -> Any:
    """Dropout as a model in use has it: the identity. A mask, where it is asked for, lets all pass."""
    return (x, torch.ones_like(x, dtype=torch.bool))[: len(node.outputs)]


@operator("Identity")
def identity(node: Node, x: Tensor) -> Tensor:
    """y = x."""
    return x


@operator("Cast", known=())
def cast(node: Node, x: Tensor) -> Tensor:
    """Another dtype."""
    return convert(x, DTYPES[node.get("to")])


@operator("CastLike")
def cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    """The dtype of another tensor."""
    return convert(x, like.dtype)


def convert(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in a dtype; the same tensor where it has it."""
    return x if x.dtype == dtype else x.to(dtype)

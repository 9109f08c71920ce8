"""Whether a deployed file computes what the model computes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from penjing.errors import ArtifactError, PenjingError, WorkloadError
from penjing.runtimes.base import Program, Run
from penjing.runtimes.capture import Flat, quantized_forms
from penjing.runtimes.nesting import Node, leaf_names
from penjing.runtimes.signature import Array, to_numpy

TOLERANCE = 1e-4
_MASKED = 1e30
TOLERANCE_HALF = 1e-2  # float16 keeps 11 bits
TOLERANCE_RMS = {"fp16": 0.01, "bf16": 0.05, "int8": 0.05}
"""By the format of the arithmetic: bfloat16 keeps 8 bits, and each product of a deep model rounds once more."""


def difference(expected: Array, actual: Array) -> float:
    r"""Largest absolute difference over the largest magnitude expected, max|a - e| / max(max|e|, 1e-6).

    Values beyond 1e30, such as the -3e38 of a masked score, must be beyond it in both, and are no measure of the rest.

    >>> difference(np.array([1.0, -2.0]), np.array([1.0, -2.5]))
    0.25
    >>> difference(np.array([1.0, -3e38]), np.array([1.5, -3e38]))
    0.5
    >>> difference(np.array([1.0, -3e38]), np.array([1.0, 0.0]))
    inf
    """
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    masks, theirs = (np.where(np.abs(each) < _MASKED, 0, np.sign(each)) for each in (expected, actual))
    if not np.array_equal(masks, theirs):
        return math.inf
    expected, actual = expected[masks == 0], actual[masks == 0]
    if not expected.size:
        return 0.0
    return float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), 1e-6))


def rms_difference(expected: Array, actual: Array) -> float:
    r"""Root mean square of the difference over that of the expected, |a - e|_2 / max(|e|_2, 1e-6).

    >>> rms_difference(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    0.1
    """
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    return float(np.linalg.norm(actual - expected) / max(float(np.linalg.norm(expected)), 1e-6))


def reference(flat: Flat, inputs: Sequence[Tensor]) -> tuple[list[Array], Node]:
    """Run the model itself; raises WorkloadError if it fails, and for outputs that are not finite or not for numpy."""
    try:
        tensors, returns = flat.outputs(inputs)
    except PenjingError:
        raise
    except Exception as problem:  # the model's own code
        shapes = ", ".join(str(list(tensor.shape)) for tensor in inputs)
        raise WorkloadError(
            f"{type(flat.model).__name__} fails on inputs of shape {shapes}: {problem}; if these are not the example's "
            "shapes, the model fixes its batch: pass dynamic_shapes={} to export it for that of the example alone"
        ) from problem
    if not tensors:
        raise WorkloadError(f"{type(flat.model).__name__} returns no tensor; there is nothing to deploy")
    arrays = []
    for name, tensor in zip(leaf_names(returns, "output"), tensors, strict=True):
        array = to_numpy(tensor, f"the model's {name}")
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise WorkloadError(
                f"the model's {name} holds NaN or infinite values on the example inputs; mend the model or the inputs"
            )
        arrays.append(array)
    return arrays, returns


def arithmetic(program: Program, options: Mapping[str, Any]) -> str:
    """The coarsest number format that a deployed program computes in: fp32, fp16, bf16 or int8."""
    in_integers = quantized_forms(program.exported) & {"int8", "int8-dynamic"}
    return "int8" if in_integers else str(options.get("precision", "fp32"))


def compare(
    flat: Flat,
    inputs: Sequence[Tensor],
    returns: Node,
    program: Program,
    run: Run,
    *,
    numbers: str,
    tolerance: float | None,
    what: str,
) -> None:
    """Run file and model on the same inputs; raises ArtifactError with the output, the difference and the limit.

    numbers: the format of the arithmetic, as `arithmetic` gives it.
    """
    expected, structure = reference(flat, inputs)
    at = f"on inputs of shapes {', '.join(str(list(tensor.shape)) for tensor in inputs)}"
    if structure != returns:
        raise WorkloadError(f"the structure or a plain value of the model's output changes {at}; return tensors only")
    actual = run([to_numpy(leaf, spec.name) for leaf, spec in zip(inputs, program.inputs, strict=True)])
    for name, want, got in zip(program.outputs, expected, actual, strict=True):
        if want.shape != got.shape or want.dtype != got.dtype:
            raise ArtifactError(
                f"{what}: {name} is {got.dtype}{list(got.shape)} {at}, where the model gives {want.dtype}"
                f"{list(want.shape)}; make the model treat all batch sizes "
                "alike, or fix the sizes with dynamic_shapes={}"
            )
        found, default, unit = disagreement(want, got, numbers)
        limit = default if tolerance is None else tolerance
        if not found <= limit:  # also true for NaN
            raise ArtifactError(
                f"{what}: {name} differs from the model by {found:.2g} {unit} {at}, more than the tolerance "
                f"{limit:.2g} for {numbers}; pass a larger tolerance= if that is acceptable, or less graph "
                "optimisation or more precision in options="
            )


def disagreement(want: Array, got: Array, numbers: str) -> tuple[float, float, str]:
    """Give the difference, its default limit, and what it is a share of."""
    if want.dtype.kind != "f":
        return float(np.mean(want != got)) if want.size else 0.0, TOLERANCE_RMS.get(numbers, 0.0), "of its entries"
    if numbers in TOLERANCE_RMS:
        return rms_difference(want, got), TOLERANCE_RMS[numbers], "of its root mean square"
    return difference(want, got), TOLERANCE_HALF if want.dtype == np.float16 else TOLERANCE, "of its largest magnitude"

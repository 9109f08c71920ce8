"""Low-rank factors of matrices and kernels against closed forms, numpy and brute force."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from penjing.errors import ShapeError
from penjing.techniques.factorize.forms import FORMS, form_of
from penjing.techniques.factorize.kernels import composed, spatial, spectrum
from penjing.techniques.factorize.svd import truncated_svd
from penjing.techniques.factorize.whitened import whitened, whitened_svd
from penjing.techniques.sparsify.solve import relative_error
from penjing.types import Kernels


def matrices(outputs: int, inputs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and H of inputs that are far from white."""
    generator = torch.Generator().manual_seed(seed)
    weight, mix = (torch.randn(n, inputs, generator=generator, dtype=torch.float64) for n in (outputs, inputs))
    x = torch.randn(4 * inputs, inputs, generator=generator, dtype=torch.float64) @ mix
    return weight, x.T @ x


def lost(weight: torch.Tensor, hessian: torch.Tensor, found: Any) -> float:
    gap = weight - found.up @ found.down
    return float(((gap @ hessian) * gap).sum())


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_error_of_a_truncated_svd_is_what_is_left_of_the_singular_values(shape: tuple[int, int], rank: int) -> None:
    weight, _ = matrices(*shape)
    left = np.linalg.svd(weight.numpy(), compute_uv=False)[rank:]
    found = truncated_svd(weight, rank)
    assert found.down.shape == (rank, shape[1])
    assert lost(weight, torch.eye(shape[1], dtype=torch.float64), found) == pytest.approx((left**2).sum(), abs=1e-9)


@pytest.mark.parametrize("shape", [(5, 8), (8, 5)])
@pytest.mark.parametrize("rank", [1, 3])
def test_whitened_factors_are_reduced_rank_regression(shape: tuple[int, int], rank: int) -> None:
    weight, hessian = matrices(*shape)
    values, vectors = np.linalg.eigh((weight @ hessian @ weight.T).numpy())
    principal = vectors[:, -rank:]
    found = whitened_svd(weight, hessian, rank)
    np.testing.assert_allclose((found.up @ found.down).numpy(), principal @ principal.T @ weight.numpy(), atol=1e-8)
    assert lost(weight, hessian, found) == pytest.approx(values[:-rank].clip(0).sum(), rel=1e-8)


def test_no_other_factors_have_better_outputs() -> None:
    weight, hessian = matrices(6, 7)
    best = lost(weight, hessian, whitened_svd(weight, hessian, 2))
    generator = torch.Generator().manual_seed(1)
    found = whitened_svd(weight, hessian, 2)
    for i in range(300):
        step = 10.0 ** -(i % 5)
        down = found.down + step * torch.randn(2, 7, generator=generator, dtype=torch.float64)
        up = weight @ hessian @ down.T @ torch.linalg.inv(down @ hessian @ down.T)  # the best there is for this down
        gap = weight - up @ down
        assert float(((gap @ hessian) * gap).sum()) >= best * (1 - 1e-12)


def test_white_inputs_make_it_the_svd() -> None:
    weight, _ = matrices(5, 6)
    white, plain = whitened_svd(weight, torch.eye(6), 3), truncated_svd(weight, 3)
    torch.testing.assert_close(white.up @ white.down, plain.up @ plain.down)


def test_both_factors_have_the_same_scale_in_each_direction() -> None:
    weight, hessian = matrices(5, 6)
    found = whitened_svd(weight, hessian, 3)
    torch.testing.assert_close(found.up.norm(dim=0), found.down.norm(dim=1))


def test_a_weight_of_lower_rank_than_asked_is_exact() -> None:
    weight = torch.outer(torch.arange(4.0), torch.arange(5.0))
    found = truncated_svd(weight, 3)
    torch.testing.assert_close((found.up @ found.down).float(), weight)


def test_the_energies_are_those_of_the_outputs() -> None:
    weight, hessian = matrices(5, 8)
    energies, _ = whitened(weight, hessian)
    assert float(energies.sum()) == pytest.approx(float((weight @ hessian @ weight.T).trace()))
    assert bool((energies.diff() <= 0).all())


@pytest.mark.parametrize("rank", [0, 6])
def test_a_rank_that_the_shape_cannot_have_is_an_error(rank: int) -> None:
    with pytest.raises(ShapeError, match=rf"rank={rank} is none that a weight of \(5, 8\) can have; use 1 to 5"):
        truncated_svd(torch.ones(5, 8), rank)


KERNELS = [(name, shape) for name in FORMS for shape in ((6, 4, 3, 3), (3, 8, 3, 2))]


def kernel(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    weight, hessian = matrices(shape[0], int(np.prod(shape[1:])))
    return weight.reshape(shape), hessian


@pytest.mark.parametrize(("name", "shape"), KERNELS)
def test_at_the_largest_rank_a_chain_is_the_kernel(name: Kernels, shape: tuple[int, ...]) -> None:
    weight, hessian = kernel(shape)
    form = FORMS[name]
    stages = form.factor(weight, hessian, form.largest(weight.shape))
    torch.testing.assert_close(composed(stages), weight)


@pytest.mark.parametrize(("name", "shape"), KERNELS)
def test_stages_have_the_shapes_foretold_and_errors_fall_with_the_rank(name: Kernels, shape: tuple[int, ...]) -> None:
    weight, hessian = kernel(shape)
    form = FORMS[name]
    errors = []
    for rank in range(1, form.largest(weight.shape) + 1):
        stages = form.factor(weight, hessian, rank)
        assert [tuple(stage.shape) for stage in stages] == form.shapes(weight.shape, rank)
        errors.append(relative_error(weight.flatten(1), composed(stages).flatten(1), hessian))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1


@pytest.mark.parametrize("name", FORMS)
def test_a_chain_of_convolutions_computes_its_composed_kernel(name: Kernels) -> None:
    weight, hessian = kernel((6, 4, 3, 3))
    form = FORMS[name]
    stages = form.factor(weight, hessian, 2)
    y = x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    for stage in stages:
        y = F.conv2d(y, stage)
    torch.testing.assert_close(y, F.conv2d(x, composed(stages)))


def test_the_second_of_two_spatial_stages_is_the_best_for_the_first() -> None:
    weight, hessian = kernel((5, 4, 3, 3))
    down, up = spatial(weight, hessian, 3)
    up.requires_grad_()
    gap = (weight - composed((down, up))).flatten(1)
    (slope,) = torch.autograd.grad(((gap @ hessian) * gap).sum(), up)
    assert float(slope.abs().max()) < 1e-6 * float((weight.flatten(1) @ hessian).abs().max())


def test_data_help_where_there_is_no_closed_form_either() -> None:
    weight, hessian = kernel((6, 4, 3, 3))
    for name, form in FORMS.items():
        white, plain = (
            relative_error(weight.flatten(1), composed(form.factor(weight, metric, 2)).flatten(1), hessian)
            for metric in (hessian, torch.eye(36, dtype=torch.float64))
        )
        assert white < plain, name


def test_the_spectrum_tells_the_error_of_a_channel_split() -> None:
    weight, hessian = kernel((6, 4, 3, 3))
    energies = spectrum(weight, hessian, 2)
    stages = FORMS[Kernels.CHANNEL].factor(weight, hessian, 2)
    error = relative_error(weight.flatten(1), composed(stages).flatten(1), hessian)
    assert error == pytest.approx(float(energies[2:].sum() / energies.sum()))


@pytest.mark.parametrize(
    ("kernels", "shape", "expected"),
    [
        (Kernels.SPATIAL, (4, 4), Kernels.CHANNEL),
        (Kernels.TUCKER, (4, 4, 1, 1), Kernels.CHANNEL),
        (Kernels.SPATIAL, (4, 4, 3, 1), Kernels.CHANNEL),
        (Kernels.SPATIAL, (4, 4, 3), Kernels.CHANNEL),
        (Kernels.SPATIAL, (4, 4, 3, 3), Kernels.SPATIAL),
        (Kernels.TUCKER, (4, 4, 3), Kernels.TUCKER),
    ],
)
def test_layers_without_a_kernel_have_one_form(kernels: Kernels, shape: tuple[int, ...], expected: Kernels) -> None:
    assert form_of(kernels, torch.Size(shape)) is FORMS[expected]

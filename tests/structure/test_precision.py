"""What torch has no float64 for is computed in float64 all the same."""

import pytest
import torch

from penjing.structure.precision import InDouble, grouped_product


@pytest.mark.parametrize(
    ("a", "b", "offs"),
    [((16, 8), (3, 8, 16), [4, 4, 13]), ((8, 16), (16, 24), [8, 16]), ((3, 8, 16), (16, 24), [8, 16, 24])],
)
def test_grouped_products_are_those_of_torch(a: tuple[int, ...], b: tuple[int, ...], offs: list[int]) -> None:
    torch.manual_seed(0)
    x, y, ends = torch.randn(a), torch.randn(b), torch.tensor(offs, dtype=torch.int32)
    expected = torch._grouped_mm(x.bfloat16(), y.bfloat16(), offs=ends)
    found = grouped_product(x.bfloat16(), y.bfloat16(), ends)
    if len(a) == 2 and len(b) == 3:
        expected, found = expected[: offs[-1]], found[: offs[-1]]
    torch.testing.assert_close(found, expected)
    with InDouble():
        torch.testing.assert_close(
            torch._grouped_mm(x.double(), y.double(), offs=ends), grouped_product(x.double(), y.double(), ends)
        )

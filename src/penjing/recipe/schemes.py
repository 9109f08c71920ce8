"""Number formats as data: which values a tensor may take, and how a layer's weights and activations are stored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from penjing.errors import RecipeError
from penjing.types import Granularity, choose

INTEGERS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"int8": (-127, 127), "uint8": (0, 255)}
    | {f"int{n}": (1 - 2 ** (n - 1), 2 ** (n - 1) - 1) for n in (4, 3, 2)}
    | {f"uint{n}": (0, 2**n - 1) for n in (4, 3, 2)}
)
"""Integer types and the steps of them that are used; signed ones stay symmetric, so that -x is on the grid if x is."""

FLOATS = ("fp16", "bf16", "fp8")
"""Float types: IEEE half, bfloat16, and E4M3 with a scale (Micikevicius et al. 2022, arXiv:2209.05433)."""


@dataclass(frozen=True)
class Grid:
    """The values that a tensor may take: (q - zero_point) * scale for integers q, or the numbers of a float type.

    type: "int8", "int4", "int3", "int2", the same with "uint", "fp16", "bf16" or "fp8". symmetric: the zero point is
    the middle of the type. granularity: one scale for the whole "tensor", for each index of the output "axis", or for
    each "group" of so many inputs of an output.

    >>> Grid("int4", granularity="group", group=32).limits
    (-7, 7)
    """

    type: str
    symmetric: bool = True
    granularity: Granularity | str = Granularity.AXIS
    group: int | None = None

    def __post_init__(self) -> None:
        if self.type not in (*INTEGERS, *FLOATS):
            raise RecipeError(f"Grid: type={self.type!r} is unknown; use one of {', '.join((*INTEGERS, *FLOATS))}")
        granularity = choose(Granularity, self.granularity, "Grid: granularity", RecipeError)
        object.__setattr__(self, "granularity", granularity)
        if (granularity is Granularity.GROUP) != (self.group is not None):
            raise RecipeError(
                f"Grid: granularity={str(granularity)!r}, group={self.group!r}: a group size goes with 'group' alone"
            )
        if self.group is not None and self.group < 2:
            raise RecipeError(f"Grid: group={self.group!r} must be at least 2; 32, 64 and 128 are usual")
        if self.type in FLOATS and not self.symmetric:
            raise RecipeError(f"Grid: type={self.type!r} has no zero point; leave symmetric=True")
        if self.type.startswith("int") and not self.symmetric:
            raise RecipeError(f"Grid: type={self.type!r} is symmetric; for a zero point use 'u{self.type}'")

    @property
    def is_integer(self) -> bool:
        """Whether the grid has equal steps."""
        return self.type in INTEGERS

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest step of an integer type."""
        return INTEGERS[self.type]

    @property
    def bits(self) -> int:
        """Bits of one value."""
        return int("".join(filter(str.isdigit, self.type)))


@dataclass(frozen=True)
class Scheme:
    """How a layer stores its weight, and its input and output; activation=None keeps those in float.

    dynamic: the range of an input is found anew at each call, from the values themselves.

    >>> SCHEMES["w4"].weight.bits, SCHEMES["w4"].activation
    (4, None)
    """

    weight: Grid
    activation: Grid | None = None
    dynamic: bool = False

    def __post_init__(self) -> None:
        if self.dynamic and self.activation is None:
            raise RecipeError("Scheme: dynamic=True needs activation=, the grid of the inputs")
        if self.activation is not None:
            known = [replace(EIGHT_BIT_TENSOR, type=f"uint{bits}") for bits in ((8,) if self.dynamic else (8, 4, 3, 2))]
            if self.activation not in known:
                raise RecipeError(
                    f"Scheme: activation={self.activation}: no integer kernel takes it; use {EIGHT_BIT_TENSOR}, the "
                    "same with fewer bits where it is static, or None"
                )
            weight = self.weight
            if not (weight.type.startswith("int") and weight.granularity is not Granularity.GROUP):
                raise RecipeError(
                    f"Scheme: weight={weight} with activations in eight bits: integer kernels take 'int8', 'int4', "
                    "'int3' or 'int2' per 'axis' or 'tensor'; use activation=None for other weights"
                )

    @property
    def is_static(self) -> bool:
        """Whether activations are stored with ranges that calibration has found."""
        return self.activation is not None and not self.dynamic


EIGHT_BIT_TENSOR = Grid("uint8", symmetric=False, granularity=Granularity.TENSOR)

SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        "int8": Scheme(Grid("int8"), EIGHT_BIT_TENSOR),
        "int8-tensor": Scheme(Grid("int8", granularity=Granularity.TENSOR), EIGHT_BIT_TENSOR),
        "int8-dynamic": Scheme(Grid("int8"), EIGHT_BIT_TENSOR, dynamic=True),
        **{f"w{n}a8": Scheme(Grid(f"int{n}"), EIGHT_BIT_TENSOR) for n in (4, 3, 2)},
        **{f"w{n}a{n}": Scheme(Grid(f"int{n}"), replace(EIGHT_BIT_TENSOR, type=f"uint{n}")) for n in (4, 3, 2)},
        "w8": Scheme(Grid("int8")),
        "w8-asymmetric": Scheme(Grid("uint8", symmetric=False)),
        **{f"w{n}": Scheme(Grid(f"int{n}")) for n in (4, 3, 2)},
        **{f"w{n}-asymmetric": Scheme(Grid(f"uint{n}", symmetric=False)) for n in (4, 3, 2)},
        **{f"w4-g{n}": Scheme(Grid("int4", granularity=Granularity.GROUP, group=n)) for n in (32, 64, 128)},
        "fp16": Scheme(Grid("fp16")),
        "bf16": Scheme(Grid("bf16")),
        "fp8": Scheme(Grid("fp8")),
    }
)
"""The schemes that have a name."""

FLOAT = "float"


def scheme_of(value: Scheme | str, what: str) -> Scheme:
    """Give the scheme of a name, or the scheme itself; raises RecipeError that lists the names.

    >>> scheme_of("w8", "Quantize: scheme").weight.type
    'int8'
    """
    if isinstance(value, Scheme):
        return value
    if value not in SCHEMES:
        raise RecipeError(f"{what}={value!r} is unknown; use one of {', '.join(SCHEMES)}, or a Scheme")
    return SCHEMES[value]

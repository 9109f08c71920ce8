"""What is frozen and why, what is refused, and what unknown operators do."""

import numpy as np
import pytest
import torch
from structure_zoo import ZOO, Mlp, Vgg
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from penjing.errors import RecipeError
from penjing.structure import Surgery, couple, cut, cut_in_place, prove, register_rule
from penjing.structure.rules import RULES, Ruling


@pytest.fixture(scope="module")
def vgg() -> object:
    return couple(Vgg(), torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"features.9": [0]}, "group 'features.9' is unknown; the model has 3 groups: features.0, features.4, head.0"),
        ({"features.0": [8]}, "has units 0 to 7"),
        ({"features.0": [-1, 2]}, "has units 0 to 7"),
        ({"features.0": range(8)}, "removing all 8 units of group 'features.0' leaves nothing"),
    ],
)
def test_an_impossible_removal_is_refused(vgg: object, removed: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        cut(vgg, {name: list(units) for name, units in removed.items()})


def test_removing_nothing_changes_nothing(vgg: object) -> None:
    done = cut(vgg, {"features.0": []})
    assert done.surgery == Surgery({})
    assert vgg.shapes_after({}) == vgg.captured.shapes


def test_frozen_dimensions_have_reasons(vgg: object) -> None:
    reasons = {(frozen.parameter, frozen.dim): frozen.reason for frozen in vgg.frozen}
    assert reasons["head.3.weight", 0] == "it is an output of the model"
    assert reasons["features.0.weight", 1] == "it must match a dimension of fixed size in conv2d of features.0"
    assert ("features.4.weight", 2) not in reasons


def test_table_shows_every_group(vgg: object) -> None:
    lines = vgg.table().splitlines()
    assert len(lines) == 4
    assert "features.4" in lines[2]
    assert "head.0.weight[1]" in lines[2]


def test_inexact_groups_say_which_statistic_they_pass() -> None:
    coupling = couple(Mlp(), torch.zeros(2, 6))
    assert not coupling["embed"].exact
    assert coupling["embed"].reason == "layer norm of norm"
    assert coupling["up"].exact


def test_constants_after_follow_the_labels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1))
    coupling = couple(model, torch.zeros(2, 3, 5, 5))
    assert coupling.constants_after({"0": [1, 5, 6]}) == {"conv2d_1": {"groups": 5}}
    smaller = cut_in_place(model, cut(coupling, {"0": [1, 5, 6]}).surgery)
    assert (smaller[1].groups, smaller[1].in_channels, smaller[1].out_channels) == (5, 5, 5)


def test_an_operator_without_a_rule_freezes_what_it_touches_and_is_reported() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(torch.linalg.matrix_exp(torch.outer(*self.a(x)[:2])) @ self.a(x).T).relu())

    class Simple(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(torch.special.airy_ai(self.a(x))).relu())

    coupling = couple(Simple(), torch.randn(2, 3))
    assert list(coupling.unknown) == ["aten::special_airy_ai"]
    assert [group.name for group in coupling.groups] == ["b"]
    reasons = {(frozen.parameter, frozen.dim): frozen.reason for frozen in coupling.frozen}
    assert reasons["a.weight", 0] == "it enters special_airy_ai: there is no rule for this operator"


@torch.library.custom_op("penjing_test::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return x * 2


@double.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(double(self.a(x)))


def test_a_custom_operator_can_be_taught() -> None:
    assert not couple(Custom(), torch.zeros(2, 3)).groups
    register_rule("penjing_test::double", lambda site: Ruling((site.labels(site["x"]),)))
    try:
        coupling = couple(Custom(), torch.zeros(2, 3))
        assert prove(coupling, cut(coupling, {"a": [0, 2]}), {"a": [0, 2]}).passed
    finally:
        del RULES["penjing_test::double"]


def test_a_wrong_rule_is_caught_by_the_proof() -> None:
    register_rule("penjing_test::double", lambda site: Ruling(((None, site.labels(site["x"])[1][::-1]),)))
    try:
        coupling = couple(Custom(), torch.zeros(2, 3))
        assert not prove(coupling, cut(coupling, {"a": [0, 2]}), {"a": [0, 2]}).passed
    finally:
        del RULES["penjing_test::double"]


def test_a_rule_that_fails_freezes_and_is_reported() -> None:
    register_rule("penjing_test::double", lambda site: Ruling((site.labels(site["no such argument"]),)))
    try:
        coupling = couple(Custom(), torch.zeros(2, 3))
        assert not coupling.groups
        assert "KeyError" in coupling.unknown["penjing_test::double"]
    finally:
        del RULES["penjing_test::double"]


def test_a_rule_needs_a_namespace() -> None:
    with pytest.raises(ValueError, match="'double' has no namespace"):
        register_rule("double", lambda site: Ruling(()))


def test_a_model_pruned_by_torch_is_cut_with_its_masks() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    prune.l1_unstructured(model[0], "weight", amount=0.3)
    coupling = couple(model, torch.randn(2, 4))
    removed = {"0": [1, 4]}
    done = cut(coupling, removed)
    assert prove(coupling, done, removed).passed
    smaller = cut_in_place(model, done.surgery)
    assert prove(coupling, smaller, removed).passed
    assert smaller[0].weight_mask.shape == (4, 4)
    assert smaller[0].out_features == 4


def test_weight_norm_is_cut() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3))
    coupling = couple(model, torch.randn(2, 4))
    removed = {coupling.groups[0].name: [1, 4]}
    done = cut(coupling, removed)
    assert prove(coupling, done, removed).passed
    assert prove(coupling, cut_in_place(model, done.surgery), removed).passed
    assert model[0].out_features == 4


def test_hooks_dtype_and_class_survive_in_place() -> None:
    model = ZOO["mobilenet"]()[0].double()
    seen: list[int] = []
    model.fc.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[0]))
    surgery = cut(couple(model, torch.randn(2, 3, 8, 8, dtype=torch.float64)), {"stem.0": [0]}).surgery
    smaller = cut_in_place(model, surgery)
    seen.clear()
    smaller.eval()(torch.randn(3, 3, 8, 8, dtype=torch.float64))
    assert seen == [3]
    assert smaller.fc.weight.dtype == torch.float64
    assert smaller.fc.in_features == 7


def test_surgeries_compose_over_new_dimensions() -> None:
    first = Surgery({"w": {0: np.array([0, 2])}})
    second = Surgery({"w": {1: np.array([1])}, "v": {0: np.array([3])}})
    assert {name: {d: i.tolist() for d, i in dims.items()} for name, dims in first.then(second).kept.items()} == {
        "w": {0: [0, 2], 1: [1]},
        "v": {0: [3]},
    }


def test_a_head_that_only_training_uses_is_kept() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head, self.aux = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            x = self.a(x).relu()
            return (self.head(x), self.aux(x)) if self.training else self.head(x)

    coupling = couple(Auxiliary(), torch.randn(2, 4))
    assert [group.name for group in coupling.groups] == ["a"]
    assert {row.reason for row in coupling.frozen if row.parameter == "aux.weight"} == {"nothing reads it in eval mode"}


def test_factors_of_a_product_are_groups_of_their_own_though_equally_many() -> None:
    """4 groups of 4 channels each: in one group of 8 units, the channels of a layer could all go."""

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.Conv2d(16, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.norm(self.a(x)))

    coupling = couple(Square(), torch.randn(2, 3, 8, 8))
    outer, inner = (coupling[name] for name in ("a", "a:2"))
    assert [group.size for group in (outer, inner)] == [4, 4]
    assert outer.members[0].index.tolist() == [[4 * i + j for j in range(4)] for i in range(4)]
    assert inner.members[0].index.tolist() == [[4 * i + j for i in range(4)] for j in range(4)]
    removed = {outer.name: [0, 1, 3], inner.name: [1, 2, 3]}
    done = cut(coupling, removed)
    assert done.module.a.weight.shape[0] == 1
    assert prove(coupling, done, removed).passed

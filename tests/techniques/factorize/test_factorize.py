"""The Factorize step: which layers it splits, how the chains compute, and how it goes with the other steps."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import penjing as pj
from penjing.errors import RecipeError, WorkloadError
from penjing.recipe import Factorize, Finetune, PruneChannels, Quantize, Recipe, Sparsify
from penjing.structure import capture
from penjing.techniques import apply, read_outcome, restore
from penjing.techniques.factorize import FORMS
from penjing.techniques.factorize.kernels import composed
from penjing.techniques.factorize.sites import find_sites
from penjing.types import Budget, Kernels
from penjing.workload import ResNet, Workload, accuracy


def network(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet((1, 1), (16, 24), classes=4).eval()


def images(n: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=generator)
    base = torch.randn(n, 1, 4, 4, generator=generator).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return list(zip((base + labels[:, None, None, None]).split(16), labels.split(16), strict=True))


def workload(model: nn.Module, **given: Any) -> Workload:
    given = {"train": images(64, 1), "evaluation": images(64, 2), "loss": nn.functional.cross_entropy} | given
    return Workload(model, torch.zeros(4, 1, 8, 8), metric=accuracy(), **given)


class Product(nn.Module):
    """A layer as Hugging Face's Conv1D writes it: the weight is [inputs, outputs]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(16, 12)), nn.Parameter(torch.randn(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, x.view(-1, 16), self.weight).view(*x.shape[:-1], 12)


class Bare(nn.Module):
    """A matrix that is no layer of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(16, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix


LAYERS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "linear": (lambda: nn.Linear(16, 12), torch.randn(3, 5, 16)),
    "linear without bias": (lambda: nn.Linear(16, 12, bias=False), torch.randn(3, 16)),
    "addmm": (Product, torch.randn(3, 5, 16)),
    "matmul": (Bare, torch.randn(3, 5, 16)),
    "conv1d": (lambda: nn.Conv1d(6, 8, 3, stride=2, padding=1), torch.randn(2, 6, 11)),
    "conv2d": (lambda: nn.Conv2d(6, 8, (3, 5), (2, 1), (1, 3), (1, 2)), torch.randn(2, 6, 12, 11)),
    "conv2d same": (lambda: nn.Conv2d(6, 8, 3, padding="same", dilation=2), torch.randn(2, 6, 9, 8)),
    "conv2d valid": (lambda: nn.Conv2d(6, 8, 3, padding="valid", bias=False), torch.randn(2, 6, 9, 8)),
    "conv2d 1x1": (lambda: nn.Conv2d(16, 12, 1, stride=2), torch.randn(2, 16, 9, 8)),
    "conv3d": (lambda: nn.Conv3d(6, 8, 2, stride=(1, 2, 1)), torch.randn(2, 6, 4, 5, 6)),
    "embedding": (lambda: nn.Embedding(30, 12, padding_idx=0), torch.randint(0, 30, (3, 7))),
}


@pytest.mark.parametrize("kernels", FORMS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_low_rank_computes_what_it_computed(name: str, kernels: Kernels) -> None:
    make, x = LAYERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.ReLU())
    ((site,), _) = find_sites(capture(model, x), kernels)
    stages = [torch.randn(shape, dtype=torch.float64) for shape in site.form.shapes(site.weight.shape, 2)]

    with torch.no_grad():
        site.weight.copy_(composed(tuple(stages)))
        expected = model(x)
    outcome = apply(model, Factorize(2, kernels=kernels, method="svd"), x)
    with torch.no_grad():
        torch.testing.assert_close(outcome.model(x), expected, rtol=1e-4, atol=1e-4)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, outcome.model))
    assert after == before - site.cost(Budget.PARAMS) + site.cost(Budget.PARAMS, 2) < before


@pytest.mark.parametrize("kernels", FORMS)
@pytest.mark.parametrize("of", [Budget.PARAMS, Budget.MACS])
def test_costs_are_those_of_the_profile(kernels: Kernels, of: Budget) -> None:
    x = torch.zeros(2, 3, 14, 13)
    model = nn.Sequential(
        nn.Conv2d(3, 24, (5, 3), (3, 2), (2, 0)), nn.Conv2d(24, 16, 1), nn.Flatten(2), nn.Linear(30, 28)
    ).eval()
    sites, _ = find_sites(capture(model, x), kernels)
    model_of = apply(model, Factorize(3, kernels=kernels, of=of), x).model
    before, after = (getattr(pj.profile(m, x), of) for m in (model, model_of))
    assert before - after == sum(site.cost(of) - site.cost(of, 3) for site in sites)


def test_embeddings_multiply_for_what_they_save() -> None:
    x = torch.zeros(2, 7, dtype=torch.long)
    model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 3)).eval()
    smaller = apply(model, Factorize({"0": 4}), x).model
    assert {name: tuple(p.shape) for name, p in smaller.named_parameters()} == {
        "0.down.weight": (50, 4),
        "0.up.weight": (16, 4),
        "1.weight": (3, 16),
        "1.bias": (3,),
    }
    assert pj.profile(smaller, x).macs - pj.profile(model, x).macs == 2 * 7 * 16 * 4


def test_data_bring_the_outputs_nearer_and_the_log_says_how_near() -> None:
    w = workload(network())
    step = {"rank": {"blocks.1.conv2": 8}}
    white, plain = (apply(w, Factorize(**step, method=method)) for method in ("auto", "svd"))  # type: ignore[arg-type]
    seen: list[torch.Tensor] = []

    def output(model: nn.Module) -> torch.Tensor:
        run = torch.fx.Interpreter(capture(model, w.example).module)
        x = torch.cat([x for x, _ in images(64, 1)])
        last = [n for n in run.module.graph.nodes if "conv2d" in str(n.target)][-2]  # the shortcut is the last
        run.run_node = lambda n, run_node=run.run_node: (
            seen.append(run_node(n)) or seen[-1] if n is last else run_node(n)
        )  # type: ignore[method-assign]
        with torch.no_grad():
            run.run(x)
        return seen.pop()

    whole, near, far = (output(model) for model in (w.model, white.model, plain.model))
    whole, near, far = (y - y.mean((0, 2, 3), keepdim=True) for y in (whole, near, far))  # batch norm takes the means
    near, far = (float((whole - y).square().sum() / whole.square().sum()) for y in (near, far))
    assert near < far
    assert f"off by {near:.2%}" in white.log[0].what
    assert white.log[0].what.startswith("blocks.1.conv2: rank 8 of 24, 1,920 of 5,184 weights; its outputs are")
    assert "its weight is off" in plain.log[0].what


class Biased(nn.Module):
    """Layers behind rectifiers, whose inputs are far from zero: one has a bias, one a batch norm, one neither."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 3, bias=False), nn.Conv2d(16, 12, 1, bias=False)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.norm(self.b(self.a(x).relu() + 2)).relu()).mean((2, 3))


@pytest.mark.parametrize(("layer", "takes"), [("a", "a.bias"), ("b", "norm.running_mean"), ("c", None)])
def test_means_go_where_a_bias_is(layer: str, takes: str | None) -> None:
    torch.manual_seed(0)
    model = Biased().eval()
    w = workload(model)
    outcome = apply(w, Factorize({layer: 3}))
    before, after = model.state_dict(), outcome.model.state_dict()
    assert {name for name in before if name in after and not torch.equal(before[name], after[name])} == {takes} - {None}
    if layer == "b":
        seen: list[torch.Tensor] = []
        with torch.no_grad():
            for state in (before, after):
                x = torch.nn.functional.conv2d(torch.cat([x for x, _ in images(64, 1)]), before["a.weight"])
                x = (x + before["a.bias"][:, None, None]).relu() + 2
                weights = [value for name, value in state.items() if name.startswith("b.")]
                for weight in weights:
                    x = torch.nn.functional.conv2d(x, weight)
                seen.append(x.mean((0, 2, 3)) - state["norm.running_mean"])
        torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-4)


def test_the_energy_asked_for_is_kept() -> None:
    w = workload(network())
    outcome = apply(w, Factorize(energy=0.9, round_to=1))
    told = [float(row.what.rpartition(" ")[2].rstrip("%")) for row in outcome.log if "outputs are off" in row.what]
    assert told
    assert max(told) <= 10.0


@pytest.mark.parametrize("of", [Budget.PARAMS, Budget.MACS])
def test_ranks_under_a_budget_are_the_best_of_all(of: Budget) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 8)).eval()
    x = torch.zeros(2, 12)
    outcome = apply(model, Factorize(ratio=0.4, of=of, round_to=2), x)
    total = getattr(pj.profile(model, x), of)
    assert getattr(pj.profile(outcome.model, x), of) <= 0.6 * total

    sites, _ = find_sites(capture(model, x), Kernels.CHANNEL)
    menus = []
    for site in sites:
        energies = torch.linalg.svdvals(site.weight.double()).square()
        lost = [float(energies[rank:].sum() / energies.sum()) for rank in range(site.largest + 1)]
        ranks = [r for r in range(2, site.largest + 1, 2) if site.cost(of, r) < site.cost(of)]
        menus.append([(0.0, 0)] + [(lost[r], site.cost(of) - site.cost(of, r)) for r in ranks])
    least = min(
        sum(value for value, _ in choice)
        for choice in itertools.product(*menus)
        if sum(saved for _, saved in choice) >= 0.4 * total
    )
    told = sum(float(row.what.rpartition(" ")[2].rstrip("%")) for row in outcome.log if "is off by" in row.what)
    assert told == pytest.approx(100 * least, abs=0.02)


def test_a_budget_that_cannot_be_kept_says_what_can() -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 8))
    with pytest.raises(RecipeError, match=r"ratio=0.9 cannot be kept: at the lowest ranks 96% .* use 0.04 or less"):
        apply(model, Factorize(ratio=0.9, round_to=7), torch.zeros(2, 12))


def test_ranks_are_rounded_up_to_what_pays_but_not_beyond_what_can_be() -> None:
    x = torch.zeros(2, 64)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    log = apply(model, Factorize({"0": 0.3, "2": 4}), x).log
    assert [row.what.partition(",")[0] for row in log[:2]] == ["0: rank 24 of 64", "2: rank 4 of 10"]
    (whole, *_) = apply(model, Factorize({"2": 0.9, "0": 4}), x).log
    assert (whole.what, whole.fell_back) == ("stay whole, for their parts would save no params: 2", True)


def test_the_first_pattern_that_matches_holds_and_layers_can_be_spared() -> None:
    model = network()
    step = Factorize({"blocks.0.conv1": 4, "blocks*": 0.2}, exclude="*.shortcut*", layers="*conv*")
    log = apply(model, step, torch.zeros(2, 1, 8, 8)).log
    told = [row.what.split(" of ")[0] for row in log if ": rank" in row.what]
    assert told == [
        "blocks.0.conv1: rank 4",
        "blocks.0.conv2: rank 8",
        "blocks.1.conv1: rank 8",
        "blocks.1.conv2: rank 8",
    ]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Factorize({"stem*": 4}), r"rank names 'stem\*', which is no layer that can be split; those are conv, blocks"),
        (Factorize(4, layers="stem"), "layers names 'stem'"),
        (Factorize(4, exclude=("stem",)), "exclude names 'stem'"),
        (Factorize(25), r"rank\['\*'\]=25 is more than any of conv, .* can have; use 24 or less"),
        (Factorize({"fc": 5, "*": 4}), r"rank\['fc'\]=5 is more than any of fc can have; use 4 or less"),
        (Factorize(0.5, method="whitened"), r"step 0 \(factorize\) needs calibration data"),
    ],
)
def test_what_cannot_be_done_is_an_error(step: Factorize, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        apply(network(), step, torch.zeros(2, 1, 8, 8))


class Tied(nn.Module):
    """A head that shares the weight of the embedding, and one layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.twice, self.head = nn.Embedding(40, 16), nn.Linear(16, 16), nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.twice(self.twice(self.embed(x)).relu()))


def test_a_weight_that_is_read_twice_stays_whole() -> None:
    model = Tied()
    outcome = apply(model, Factorize(2), torch.zeros(2, 5, dtype=torch.long))
    stay = "stay whole, for their weight is read more than once: head, twice"  # the embedding reads the head's
    assert [row.what for row in outcome.fallbacks] == [stay, "nothing is split: no layer of this model can be"]
    assert type(outcome.model) is Tied


class Named(nn.Module):
    """A module with parts of the names that a chain would have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.down = nn.Parameter(torch.randn(12, 16)), nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.linear(x, self.weight))


def test_names_that_are_taken_are_left_alone() -> None:
    model = nn.Sequential(Named())
    outcome = apply(model, Factorize({"0": 2}), torch.randn(3, 16))
    assert set(outcome.model.state_dict()) == {
        "0.down.weight",
        "0.down.bias",
        "0.down_.weight",
        "0.up.weight",
    }
    torch.testing.assert_close(outcome.model.get_parameter("0.down.weight"), model[0].down.weight)  # type: ignore[union-attr]


def test_a_model_that_is_one_layer() -> None:
    outcome = apply(nn.Linear(16, 12), Factorize(2), torch.zeros(3, 16))
    assert outcome.model(torch.zeros(3, 16)).shape == (3, 12)


def test_a_layer_that_sees_zeros_alone_is_split_by_its_weight() -> None:
    model = network()
    with torch.no_grad():
        for name in ("weight", "bias"):
            model.get_submodule("blocks.0.bn1").get_parameter(name).zero_()
    outcome = apply(workload(model), Factorize({"blocks.0*": 4}))
    told = {row.what.partition(":")[0]: row.what for row in outcome.log}
    assert "its outputs are" in told["blocks.0.conv1"]
    assert "its weight is" in told["blocks.0.conv2"]


@pytest.mark.parametrize("step", [Factorize(0.25), Factorize(energy=0.9), Factorize(ratio=0.3, of="params")])
def test_a_layer_of_zeros_loses_nothing(step: Factorize) -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    with torch.no_grad():
        model.get_submodule("2").get_parameter("weight").zero_()
    outcome = apply(model, step, torch.zeros(3, 16))
    assert "off by 0.00%" in next(row.what for row in outcome.log if row.what.startswith("2: rank"))
    assert torch.equal(outcome.model(torch.ones(3, 16)), model(torch.ones(3, 16)))


def test_data_that_are_no_numbers_are_an_error() -> None:
    broken = [(torch.full((4, 1, 8, 8), torch.nan), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(WorkloadError, match="Factorize: on the calibration data NaN or infinity passes conv"):
        apply(workload(network(), calibration=broken), Factorize(0.5))


class Fixed(nn.Module):
    """A model of four samples alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x.reshape(4, 64))


def test_a_fixed_batch_needs_data_of_its_size() -> None:
    step = Factorize(8, method="whitened")
    ((x, y),) = images(8, 3)
    given = {"train": [(x[:4], y[:4])], "evaluation": [(x[4:], y[4:])]}
    assert "its outputs are" in apply(workload(Fixed(), **given), step).log[0].what
    with pytest.raises(RecipeError, match="no calibration batch has 4 samples"):
        apply(workload(Fixed(), **given, calibration=images(8, 4)), step)


def test_zeros_go_with_their_weight_and_the_log_says_so() -> None:
    steps = [Sparsify(0.5, parameters=["blocks.1.conv1.weight", "fc.weight"]), Factorize({"blocks.1.conv1": 4})]
    outcome = apply(network(), steps, torch.zeros(2, 1, 8, 8))
    assert set(outcome.masks) == {"fc.weight"}
    (row,) = outcome.fallbacks
    assert row.what == "the zeros of blocks.1.conv1.weight are gone with these weights"


def test_other_steps_come_before_and_after(tmp_path: Path) -> None:
    w = workload(network())
    steps = [PruneChannels(0.2), Factorize(0.3), Finetune(1), Quantize("int8")]
    outcome = apply(w, steps, prefer="graph")
    assert any(name.startswith("blocks.1.conv2.down.weight") for name in outcome.model.state_dict())
    x = images(16, 5)[0][0]
    restored = restore(network(1), outcome.save(tmp_path / "saved"))
    torch.testing.assert_close(restored(x), outcome.model(x))


@pytest.mark.parametrize("kernels", FORMS)
def test_saved_restored_and_exported(kernels: Kernels, tmp_path: Path) -> None:
    w = workload(network())
    outcome = apply(w, Factorize(0.3, kernels=kernels))
    folder = outcome.save(tmp_path / "saved")
    x = images(16, 5)[0][0]
    found = read_outcome(None, folder)
    assert found.recipe == Recipe([Factorize(0.3, kernels=kernels)])
    with torch.no_grad():
        expected = outcome.model(x)
        torch.testing.assert_close(found.model(x), expected)
        got = pj.export(outcome.model, w.example, tmp_path / "file").load()(x)
    torch.testing.assert_close(torch.as_tensor(got), expected, rtol=1e-3, atol=1e-4)


def test_training_brings_a_split_network_back() -> None:
    w = workload(network())
    dense = apply(w, Finetune(8, distill=False, precision="fp32")).model
    step = Factorize(2, exclude=("fc",))
    split, trained = (apply(workload(dense), steps).model for steps in (step, [step, Finetune(8, precision="fp32")]))

    def off(model: nn.Module) -> float:
        with torch.no_grad():
            return sum(float((model(x) - dense(x)).square().mean()) for x, _ in images(64, 1))

    assert off(trained) < off(split)


def test_the_model_that_was_given_is_left_as_it_was() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply(workload(model), Factorize(0.3))
    torch.testing.assert_close(dict(model.state_dict()), before)

"""A walk gives what a plain run gives, whatever has room, and piece by piece what it gives on all data together."""

import copy

import pytest
import torch
from torch import Tensor, fx, nn

from penjing.structure import capture
from penjing.techniques.quantize import walk as walks
from penjing.techniques.quantize.calibrate import observe
from penjing.techniques.quantize.insert import insert
from penjing.techniques.quantize.observers import min_max
from penjing.techniques.quantize.refine import round_by_gptq
from penjing.techniques.quantize.technique import prepare
from penjing.techniques.quantize.walk import Walk


class Net(nn.Module):
    """A residual block, a grouped convolution with padding and dilation, a tuple of two halves, and a linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 8, (3, 2), stride=2, groups=4, padding=(0, 1), dilation=2), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        left, right = self.c((y + self.b(y)).relu()).chunk(2, 1)
        return self.d((left * right).flatten(1))  # type: ignore[no-any-return]


def pictures(count: int) -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(5, 3, 6, 7, generator=generator),) for _ in range(count)]


@pytest.fixture
def graph() -> fx.GraphModule:
    return capture(Net().eval(), pictures(1)[0]).module


@pytest.fixture(params=[0, 30_000, 2**24])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room, room for some, and room for all."""
    monkeypatch.setattr(walks, "room_beside", lambda module: request.param)


class Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)


@pytest.mark.usefixtures("room")
def test_values_are_those_of_a_plain_run_and_only_those_still_to_be_read(graph: fx.GraphModule) -> None:
    data = pictures(3)
    walk, nodes = Walk(graph, data), list(graph.graph.nodes)
    constant = {node for node in nodes if node.op == "get_attr"}
    for place, stop in enumerate(nodes):
        if stop.op == "placeholder" or stop in constant:
            continue
        for i, inputs in enumerate(data):
            plain = Recorder(graph)
            plain.run(*inputs)
            values = walk.before(stop, i)
            wanted = {x for x in nodes[:place] if x not in constant and set(x.users) & set(nodes[place:])}
            assert values.keys() == wanted
            for node, value in values.items():
                torch.testing.assert_close(value, plain.env[node], rtol=0, atol=0)


@pytest.mark.usefixtures("room")
def test_a_weight_that_changed_counts_after_the_next_stop(graph: fx.GraphModule) -> None:
    data = pictures(2)
    walk = Walk(graph, data)
    first, second, third, *_ = (node for node in graph.graph.nodes if node.target is torch.ops.aten.conv2d.default)
    before = [walk.before(first, i) for i in range(2)]
    assert all(before)
    graph.get_parameter("a.weight").data.mul_(2)
    graph.get_parameter("a.bias").data.mul_(2)
    doubled = [walk.before(second, i)[second.args[0]] for i in range(2)]
    graph.get_parameter("b.weight").data.zero_()
    graph.get_parameter("b.bias").data.zero_()
    for i, (x,) in enumerate(data):
        torch.testing.assert_close(doubled[i], 2 * Net().a(x).relu())
        torch.testing.assert_close(walk.before(third, i)[third.args[0]], doubled[i])


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("pieces", [1, 4, 20])
def test_roundings_are_those_of_the_walk_on_all_data_together(pieces: int) -> None:
    (x,) = (torch.cat([each for (each,) in pictures(4)]),)
    captured = capture(Net().eval(), (x,))
    plan, _ = prepare(captured.module, "w4a8")
    histograms = observe(captured.module, set(plan.stored.values()), [(x,)])
    candidate = insert(captured.module, plan, {name: min_max(each) for name, each in histograms.items()})
    whole, parts = (
        round_by_gptq(copy.deepcopy(captured.module), candidate, data)
        for data in ([(x,)], [(part,) for part in x.split(20 // pieces)])
    )
    kept = candidate.state_dict()
    assert any(not torch.equal(value, kept[name]) for name, value in whole.state_dict().items()), "something is rounded"
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name

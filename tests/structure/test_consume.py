"""A cut that consumes its original gives the same result, and gives the memory back."""

import copy

import torch
from torch import Tensor, nn

from penjing.structure import couple, cut


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(20, 8), nn.LayerNorm(8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.embed(x) * self.scale))


def test_what_is_consumed_is_emptied_and_the_cut_is_the_same() -> None:
    torch.manual_seed(0)
    model, x = Tied().eval(), torch.randint(0, 20, (2, 5))
    kept = copy.deepcopy(model)
    model(x).sum().backward()
    (group,) = couple(kept, x).groups
    expected = cut(couple(kept, x), {group.name: [1, 4, 6]}).module(x)
    coupling = couple(model, x)
    done = cut(coupling, {group.name: [1, 4, 6]}, consume=True)
    torch.testing.assert_close(done.module(x), expected, rtol=0, atol=0)
    assert done.module.get_parameter("head.weight") is done.module.get_parameter("embed.weight")
    assert {name: tensor.numel() for name, tensor in model.state_dict().items()} == dict.fromkeys(model.state_dict(), 0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_whole_is_shared_and_stays() -> None:
    model, x = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 2)), torch.zeros(2, 3)
    weight = model[3].weight
    done = cut(couple(model, x), {"0": [0, 5]}, consume=True)
    assert done.module.get_parameter("3.weight") is weight
    assert weight.shape == (2, 4)
    assert model[0].weight.numel() == model[2].weight.numel() == 0

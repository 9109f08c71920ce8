"""What is asked of every runtime: inherit `RuntimeCase`, name the runtime, and pytest does the rest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from penjing.errors import ArtifactError, PenjingError, RuntimeUnavailable, ShapeError, WorkloadError
from penjing.runtimes import RUNTIMES, Artifact, difference, export, load, missing
from penjing.runtimes.kernels import kernels_of


class TwoInputs(nn.Module):
    """A small network with a keyword input, an unused one, dropout, and nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 3)

    def forward(self, image: Tensor, scale: Tensor, unused: Tensor | None = None) -> dict[str, Any]:
        features = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        logits = self.head(self.drop(features)) * scale
        return {"logits": logits, "hidden": (features, None), "classes": 3}


class RuntimeCase:
    """Export, load, equality, free batch, options, clear errors, and detection of changed files.

    class TestMine(RuntimeCase):
        runtime = "mine"
        option = ("threads", 2)
    """

    runtime: ClassVar[str]
    option: ClassVar[tuple[str, Any]]
    tolerance: ClassVar[float] = 1e-4
    same_bytes: ClassVar[bool] = True
    """Whether two exports of a model give the same files; a compiler of native code may be excused."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def installed(cls) -> None:
        if absent := missing(RUNTIMES[cls.runtime]):
            pytest.skip(f"{cls.runtime} lacks {', '.join(absent)} here")

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> nn.Module:
        torch.manual_seed(0)
        model = TwoInputs()
        model.norm.running_mean = torch.randn(4)
        model.conv.eval()  # a mode that must come back
        return model

    @pytest.fixture(scope="class")
    @classmethod
    def artifact(cls, model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
        name, value = cls.option
        folder = tmp_path_factory.mktemp(cls.runtime) / "artifact"
        return export(model, inputs(1), folder, cls.runtime, options={name: value})

    def test_modes_are_restored(self, model: nn.Module, artifact: Artifact) -> None:
        modes = {name: module.training for name, module in model.named_modules() if name}
        assert modes == {"conv": False, "norm": True, "drop": True, "head": True}
        assert model.training

    @pytest.mark.parametrize("batch", [1, 2, 5])
    def test_returns_what_the_model_returns(self, model: nn.Module, artifact: Artifact, batch: int) -> None:
        expected = _in_evaluation(model, inputs(batch))
        actual = artifact.load()(**inputs(batch))
        assert list(actual) == ["logits", "hidden", "classes"]
        assert actual["classes"] == 3
        assert actual["hidden"][1] is None
        assert isinstance(actual["hidden"], tuple)
        for got, want in ((actual["logits"], expected["logits"]), (actual["hidden"][0], expected["hidden"][0])):
            assert isinstance(got, Tensor)
            assert difference(want.numpy(), got.numpy()) <= self.tolerance

    def test_arrays_give_arrays(self, model: nn.Module, artifact: Artifact) -> None:
        tensors = inputs(3)
        actual = artifact.load()(*(tensor.numpy() for tensor in tensors.values()))
        assert isinstance(actual["logits"], np.ndarray)
        assert difference(_in_evaluation(model, tensors)["logits"].numpy(), actual["logits"]) <= self.tolerance

    def test_bare_call_is_the_session(self, artifact: Artifact) -> None:
        session = artifact.load()
        logits = session.run(session.feeds(**inputs(2)))[0]
        np.testing.assert_array_equal(logits, session(**inputs(2))["logits"].numpy())

    def test_manifest_says_how_it_runs(self, artifact: Artifact) -> None:
        name, value = self.option
        assert artifact.runtime == self.runtime
        assert artifact.options[name] == value
        assert artifact.size_bytes == sum(
            p.stat().st_size for p in artifact.path.iterdir() if p.name != "manifest.json"
        )
        assert [i["name"] for i in artifact.manifest.inputs] == ["image", "scale", "unused"]
        assert artifact.manifest.inputs[0]["shape"] == ["batch", 1, 6, 6]

    def test_unknown_option(self, model: nn.Module, tmp_path: Path) -> None:
        with pytest.raises(RuntimeUnavailable, match=self.option[0]):
            export(model, inputs(2), tmp_path / "a", self.runtime, options={"no_such_option": 1})
        assert not (tmp_path / "a").exists()

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"image": torch.zeros(2, 6, 6)}, ShapeError, "image.*batch, 1, 6, 6"),
            ({"image": torch.zeros(2, 2, 6, 6)}, ShapeError, "image"),
            ({"scale": torch.ones(3, 1)}, ShapeError, "scale.*batch"),
            ({"unused": torch.ones(3)}, ShapeError, "unused.*batch"),
            ({"image": torch.zeros(2, 1, 6, 6, dtype=torch.float64)}, WorkloadError, "image.*float64.*float32"),
            ({"scale": 2.0}, WorkloadError, "scale"),
            ({"picture": torch.zeros(2)}, WorkloadError, "picture.*image, scale, unused"),
        ],
    )
    def test_inputs_that_do_not_fit(
        self, artifact: Artifact, change: Mapping[str, Any], error: type[PenjingError], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            artifact.load()(**(inputs(2) | dict(change)))

    def test_missing_input(self, artifact: Artifact) -> None:
        with pytest.raises(WorkloadError, match=r"scale.*missing"):
            artifact.load()(inputs(2)["image"])

    def test_wrong_file_is_not_kept(self, tmp_path: Path) -> None:
        """A model that is another one while it is captured: no file can equal it, and the folder stays away."""
        with pytest.raises(ArtifactError, match=r"differs.*tolerance.*the captured graph already differs"):
            export(_Changing(), torch.ones(2, 3), tmp_path / "changing", self.runtime)
        assert list(tmp_path.iterdir()) == []

    def test_kernels_name_what_is_in_the_file(self, artifact: Artifact) -> None:
        kernels = kernels_of(RUNTIMES[self.runtime], artifact.path, artifact.options)
        if kernels is None:
            pytest.skip("this runtime does not say which kernels it runs")
        assert not any(kernel.integer for kernel in kernels), "the model is float"
        assert {"image", "scale"} & {name for kernel in kernels for name in kernel.reads}
        assert all(kernel.kind and kernel.writes for kernel in kernels)

    def test_changed_file_is_refused(self, model: nn.Module, tmp_path: Path) -> None:
        artifact = export(model, inputs(2), tmp_path / "a", self.runtime)
        largest = max((p for p in artifact.path.iterdir() if p.name != "manifest.json"), key=lambda p: p.stat().st_size)
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
        with pytest.raises(ArtifactError, match=largest.name):
            load(tmp_path / "a")

    def test_same_bytes_each_time(self, model: nn.Module, artifact: Artifact, tmp_path: Path) -> None:
        if not self.same_bytes:
            pytest.skip("this runtime writes native code")
        name, value = self.option
        again = export(model, inputs(1), tmp_path / "again", self.runtime, options={name: value})
        for path in again.path.iterdir():
            if path.name != "manifest.json":
                assert path.read_bytes() == (artifact.path / path.name).read_bytes()


def inputs(batch: int) -> dict[str, Tensor]:
    """Inputs of `TwoInputs`, the same for the same batch size."""
    generator = torch.Generator().manual_seed(batch)
    image = torch.randn(batch, 1, 6, 6, generator=generator)
    scale = torch.rand(batch, 1, generator=generator) + 0.5
    return {"image": image, "scale": scale, "unused": torch.zeros(batch)}


class _Changing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (2.0 if torch.compiler.is_exporting() else 3.0)


def _in_evaluation(model: nn.Module, kwargs: Mapping[str, Tensor]) -> Any:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        outputs = model(**kwargs)
    for module, mode in modes:
        module.training = mode
    return outputs

"""What every action of one run shares."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from penjing.planning import Event
from penjing.recipe import Contract, Recipe
from penjing.runs import RunFolder
from penjing.runtimes import Artifact, export
from penjing.structure import Captured, capture
from penjing.training import Progress
from penjing.workload import Workload


@dataclass(frozen=True)
class Line:
    """What every action of one run shares."""

    workload: Workload
    contract: Contract
    runtime: str
    folder: RunFolder
    budget_s: float
    seed: int
    progress: Progress | None = None

    def events(self) -> list[Event]:
        """Give all that the journal holds."""
        return self.folder.journal.events()

    def last(self, kind: str) -> Event:
        """Give the newest event of a kind."""
        return next(event for event in reversed(self.events()) if event["event"] == kind)

    def write(self, kind: str, **data: Any) -> None:
        """End an action."""
        self.folder.journal.append(kind, **data)

    def recipe(self, index: int) -> Recipe:
        """Give a recipe of the lattice."""
        return Recipe.from_data(self.last("lattice")["recipes"][index])

    def artifact(self, name: str) -> Artifact:
        """Open what was exported for a candidate."""
        return Artifact.open(self.folder.candidate(name) / "artifact")

    def captured(self, model: nn.Module) -> Captured:
        """Capture a model as the workload says it is called."""
        return capture(model, self.workload.example, self.workload.dynamic_shapes)

    def export(self, model: nn.Module, folder: Path) -> Artifact:
        """Export a model for the run's runtime as the workload says it is called."""
        shapes = self.workload.dynamic_shapes
        return export(model, self.workload.example, folder, self.runtime, dynamic_shapes=shapes)

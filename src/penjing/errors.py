"""What can go wrong, as one tree.

    PenjingError
    ├── WorkloadError        the model, its inputs, data, metric or loss do not fit together
    ├── CaptureError         torch.export cannot capture the model
    ├── ShapeError           a tensor has the wrong rank or size
    ├── RecipeError          a step or a recipe is wrong, or a step cannot be applied to this model
    ├── ContractError        a contract contradicts itself or does not fit the metric
    ├── RuntimeUnavailable   a runtime is unknown, not installed, or lacks an operator
    ├── ArtifactError        a saved file is missing, changed, foreign, or could not be written
    └── RunError             a run folder belongs to something else, or its journal is damaged

Every message names the object, the value and the remedy.
"""


class PenjingError(Exception):
    """Root of every error that Penjing raises on purpose."""


class WorkloadError(PenjingError):
    """The model, its inputs, data, metric or loss do not fit together."""


class CaptureError(PenjingError):
    """The model cannot be captured as a graph."""


class ShapeError(PenjingError):
    """A tensor has the wrong rank or size."""


class RecipeError(PenjingError):
    """A step or a recipe is wrong, or cannot be applied to this model."""


class ContractError(PenjingError):
    """A contract contradicts itself or does not fit the metric."""


class RuntimeUnavailable(PenjingError):  # noqa: N818 - the name promised to users
    """A runtime is unknown, not installed, or lacks an operator."""


class ArtifactError(PenjingError):
    """A saved file is missing, changed, foreign, or could not be written."""


class RunError(PenjingError):
    """A run folder belongs to something else, or its journal is damaged."""


def first_line(problem: BaseException) -> str:
    """What an error says, on one line; its type where it says nothing.

    >>> first_line(ValueError("\\n too wide \\nby two")), first_line(KeyError())
    ('too wide', 'KeyError')
    """
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)

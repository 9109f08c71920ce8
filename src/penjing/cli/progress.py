"""A progress bar on standard error, and the run's own words above it."""

import logging
from types import TracebackType
from typing import Self

from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from penjing.cli.shared import errors_console


class Bar:
    """Shows `update(done, total, text)` as a bar, and the log of Penjing as lines above it; quiet shows nothing."""

    def __init__(self, quiet: bool = False) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=errors_console, transient=True, disable=quiet)
        self._task = self._bar.add_task("", visible=False)
        self._handler = RichHandler(console=errors_console, show_path=False, show_level=False, markup=False)
        self._quiet = quiet

    def update(self, done: int, total: int, text: str) -> None:
        """Show that `done` of `total` steps are finished."""
        self._bar.update(self._task, completed=done, total=total, description=text, visible=done < total)

    def __enter__(self) -> Self:
        logger = logging.getLogger("penjing")
        self._level, self._propagate = logger.level, logger.propagate
        if not self._quiet:
            logger.addHandler(self._handler)
            logger.setLevel(logging.INFO)
            logger.propagate = False
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        logger = logging.getLogger("penjing")
        logger.removeHandler(self._handler)
        logger.setLevel(self._level)
        logger.propagate = self._propagate

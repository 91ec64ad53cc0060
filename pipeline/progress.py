"""What the terminal shows while folds are trained: one live line on a terminal, a plain line a fold elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from pipeline.train import EpochRecord


class TrainingProgress:
    """A context; call it with each `EpochRecord`. Epochs of folds that were finished earlier count as done."""

    def __init__(self, k: int, epochs: int, metric: str):
        self._k, self._epochs, self._metric = k, epochs, metric
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        columns = (TextColumn("train   {task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal, transient=True)
        self._task = self._bar.add_task("first epoch", total=k * epochs)

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, record: EpochRecord) -> None:
        text = (
            f"fold {record.fold + 1}/{self._k}  epoch {record.epoch}/{record.epochs}  "
            f"loss {record.train_loss:.4f}  valid {record.valid_loss:.4f}  {self._metric} {record.score:.4f}  "
            f"lr {record.lr:.2g}  {record.images_per_s:,.0f} images/s"
        )
        self._bar.update(self._task, description=text, completed=record.fold * self._epochs + record.epoch)
        if record.epoch == record.epochs:
            self._console.print(f"train   {text}", markup=False)

"""What the terminal shows during long work: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from pipeline.train import EpochRecord


class Steps:
    """A context; call it with what is done next. A live line on a terminal, nothing elsewhere."""

    def __init__(self, verb: str):
        self._verb = verb
        self._status = Console(file=sys.stdout, highlight=False).status("")

    def __enter__(self) -> Steps:
        if self._status.console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._status.stop()

    def __call__(self, step: str) -> None:
        self._status.update(f"{self._verb:<7} {step} ...")


class ImageProgress:
    """A context; call it with how many more images are done. Says at the end how many there were, and how fast."""

    def __init__(self, n: int):
        self._n, self._done, self._started = n, 0, time.perf_counter()
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        columns = (TextColumn("images  {task.description}"), BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal, transient=True)
        self._task = self._bar.add_task("decoding", total=n)

    def __enter__(self) -> ImageProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()
        if error is None:
            text = f"images  {self._done:,} decoded in {self._seconds:.1f} s ({self._rate:,.0f} images/s)"
            self._console.print(text, markup=False)

    def __call__(self, n: int) -> None:
        self._done += n
        self._bar.update(self._task, completed=self._done, description=f"decoding, {self._rate:,.0f} images/s")

    @property
    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    @property
    def _rate(self) -> float:
        return self._done / max(self._seconds, 1e-9)


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

"""What the terminal shows during long work: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from pipeline.records import EpochRecord


LONG_EPOCH_S = 10  # an epoch that takes longer is worth a line where nothing can be redrawn


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
    """A context; call it with how many more images are done. Says at the end how many there were, and how fast.

    verb, doing, what: words of the line. told_from: seconds; shorter work is not told.
    """

    def __init__(
        self, n: int, verb: str = "images", doing: str = "decoding", what: str = "decoded", told_from: float = 0
    ):
        self._n, self._done, self._found, self._started = n, 0, 0, time.perf_counter()
        self._verb, self._doing, self._what, self._told_from = verb, doing, what, told_from
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        columns = (TextColumn(f"{verb:<7} {{task.description}}"), BarColumn(20), MofNCompleteColumn(),
                   TimeRemainingColumn())  # fmt: skip
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal, transient=True)
        self._task = self._bar.add_task(doing, total=n)

    def __enter__(self) -> ImageProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()
        if error is None and self._seconds >= self._told_from:
            text = f"{self._verb:<7} {self._done:,} {self._what} in {self._seconds:.1f} s ({self._rate:,.0f} images/s)"
            self._console.print(text, markup=False)

    def found(self, n: int) -> None:
        """So many were done by an earlier command."""
        self._found += n
        self(0)

    def __call__(self, n: int) -> None:
        self._done += n
        self._bar.update(
            self._task, completed=self._done + self._found, description=f"{self._doing}, {self._rate:,.0f} images/s"
        )

    @property
    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    @property
    def _rate(self) -> float:
        return self._done / max(self._seconds, 1e-9)


class TrainingProgress:
    """A context; call it with each `EpochRecord`, and `on_step` within an epoch.

    On a terminal: one line for the fold and one for the whole run, each with the time it still needs, and above them
    what each fold came to. Elsewhere: a line a fold, and one an epoch where epochs take long.
    """

    def __init__(self, n_models: int, epochs: int, metric: str):
        self._n, self._epochs, self._metric = n_models, epochs, metric
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        columns = (
            *(TextColumn("{task.fields[name]:<7} {task.description}"), BarColumn(20)),
            *(TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn(), TextColumn("left")),
        )
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal, transient=True)
        self._fold = self._bars.add_task("first epoch", name="train", total=100 * epochs)
        self._run = self._bars.add_task(f"{n_models} folds", name="", total=100 * epochs * n_models)
        self._done = 0  # models whose last epoch was told

    def __enter__(self) -> TrainingProgress:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bars.stop()

    def found(self, n: int) -> None:
        """So many models had been trained before."""
        self._done = n
        self._bars.update(self._run, completed=100 * self._epochs * n)

    def on_step(self, epoch: int, percent: int) -> None:
        """Within an epoch; cheap enough for every step."""
        within = 100 * (epoch - 1) + percent
        self._bars.update(self._fold, completed=within)
        self._bars.update(self._run, completed=100 * self._epochs * self._done + within)

    def __call__(self, record: EpochRecord) -> None:
        seed = f" seed {record.seed}" if self._n > record.n_folds else ""
        text = (
            f"fold {record.fold + 1}/{record.n_folds}{seed}  epoch {record.epoch}/{record.epochs}  "
            f"loss {record.train_loss:.4f}  valid {record.valid_loss:.4f}  {self._metric} {record.score:.4f}  "
            f"lr {record.lr:.2g}  {record.images_per_s:,.0f} images/s"
        )
        self._bars.update(self._fold, description=text)
        self.on_step(record.epoch, 100)
        if record.is_last:
            self.found(self._done + 1)
            self._bars.reset(self._fold, description="next fold")
        if record.is_last or (record.seconds > LONG_EPOCH_S and not self._console.is_terminal):
            self._console.print(f"train   {text}", markup=False)

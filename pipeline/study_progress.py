"""What the terminal shows while a search runs: a live table on a terminal, a line a trial elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

N_SHOWN = 8  # trials that have ended
REDRAW_S = 0.5


class StudyProgress:
    """A context. Trials come as `tune.prune.Trial`; `sign` is -1 where less is better."""

    def __init__(self, metric: str, n_folds: int, n_wanted: int | str, sign: int):
        self._metric, self._n_folds, self._n_wanted, self._sign = metric, n_folds, n_wanted, sign
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._drawn = 0.0
        self._started = time.monotonic()

    def __enter__(self) -> StudyProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def begun(self, trial: Any) -> None:
        if trial.n_trained:
            self._say(f"trial {trial.number} goes on: {len(trial.done)} of {self._n_folds} folds are trained")

    def ended(self, trial: Any, study: Any) -> None:
        best = study.best
        led = "" if best is None else f"  best {best.value:.4f} (trial {best.number})"
        came_to = f"{trial.value:.4f}" if trial.value is not None else trial.why
        differs = "the experiment itself" if trial.is_baseline else shortly(trial.changes)
        self._say(f"trial {trial.number:<3} {trial.state:<8}  {came_to}{led}  {differs}")
        self.refresh(study, at_once=True)

    def training_again(self, n_done: int, n: int) -> None:
        if self._console.is_terminal:
            self._live.update(Text(f"tune    the best few, trained again by fresh seeds: {n_done} of {n} models"))
            self._live.refresh()

    def refresh(self, study: Any, at_once: bool = False) -> None:
        if not self._console.is_terminal or (time.monotonic() - self._drawn < REDRAW_S and not at_once):
            return
        self._drawn = time.monotonic()
        self._live.update(self._table(study))
        self._live.refresh()

    def _table(self, study: Any) -> Table:
        from pipeline.tune.prune import estimate

        trials: Sequence[Any] = study.trials
        counts = {state: sum(t.state == state for t in trials) for state in ("finished", "pruned", "failed")}
        minutes = (time.monotonic() - self._started) / 60
        of = f" of {self._n_wanted}" if self._n_wanted != "off" else ""
        title = f"{study.about.name}   {study.n_own}{of} trials   " + "   ".join(f"{n} {s}" for s, n in counts.items())
        table = Table(box=None, title=f"{title}   {minutes:.0f} min", title_justify="left", header_style="bold",
                      pad_edge=False, title_style="")  # fmt: skip
        for column in ("trial", "state", "folds", "epochs", self._metric, "changes"):
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        running = [t for t in trials if t.state == "running"]
        ended = [t for t in trials if t.state != "running"][-N_SHOWN:]
        best = study.best
        for trial in dict.fromkeys([t.number for t in ([best] if best else []) + ended + running]):
            t = trials[trial]
            value = estimate(t, best, self._sign)
            mark = " *" if t is best else ""
            shown = "" if value is None else f"{value:.4f}" if t.value is not None else f"~{value:.4f}"
            differs = "the experiment itself" if t.is_baseline else shortly(t.changes)
            table.add_row(
                f"{t.number}{mark}", t.state, f"{len(t.done)}/{self._n_folds}", str(t.n_trained), shown, differs
            )
        return table

    def _say(self, text: str) -> None:
        self._console.print(f"tune    {text}", markup=False)


def shortly(changes: Mapping[str, Any]) -> str:
    """The last part of each key, which is what a person calls it."""
    last = [key.rpartition(".")[2] for key in changes]
    names = [key.removeprefix("train.") if last.count(word) > 1 or word == "name" else word
             for key, word in zip(changes, last, strict=True)]  # fmt: skip
    return " ".join(
        f"{name.removesuffix('.name')}={value}" for name, value in zip(names, changes.values(), strict=True)
    )

"""Verbs that read the record: `runs` lists it, `compare` asks it whether a gain is one, `sync` completes it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.competition.sources import open_competition
from pipeline.config.metric import RESAMPLED
from pipeline.config.mistakes import Mistake, Mistakes, Stopped
from pipeline.stages.describe import run_link
from pipeline.work import say

if TYPE_CHECKING:
    from pipeline.compare import Comparison
    from pipeline.config.metric import Metric
    from pipeline.config.settings import Experiment
    from pipeline.metrics import Interval
    from pipeline.tracking.browse import Run
    from pipeline.tracking.runs import Tracker

LISTED = ("cv", "submission")
UNKNOWN = "not comparable"  # in place of an interval


def connect(settings: Experiment) -> Tracker:
    """To MLflow, or `Stopped`: these verbs have nothing to say without it."""
    from pipeline.tracking.runs import Tracker

    tracker = Tracker(settings.competition.name)
    if tracker.failure:
        remedy = "mend it, or move it away for a new one" if tracker.is_local else (
            "start it, or unset MLFLOW_TRACKING_URI for the local one")  # fmt: skip
        raise Stopped(f"MLflow cannot be reached at {tracker.shown_uri} ({tracker.failure}): {remedy}")
    return tracker


def list_runs(settings: Experiment, wanted: list[str]) -> int:
    """A table of cross-validations and submissions, the youngest first; of some, if their ids are given."""
    from rich.console import Console
    from rich.table import Table

    from pipeline.tracking.browse import runs

    tracker = connect(settings)
    found = runs(tracker, LISTED)
    if wanted:
        found = [find(found, name) for name in wanted]
    found = by_units(found, settings)
    if not found:
        say("runs", f"none yet in {settings.competition.name}: make train makes the first")
        return 0
    table = Table(box=None, header_style="bold", pad_edge=False)
    widths = {"run": 8, "started (UTC)": 16, "name": 0, "score": 6, "95 % interval": 16, "folds": 8, "status": 8}
    for column, width in widths.items():  # on a narrow terminal it is the name that is cut
        table.add_column(column, no_wrap=True, overflow="ellipsis", min_width=width or None)
    for run in found:
        score, interval = scores_of(run, settings.competition.metric)
        table.add_row(run.id[:8], f"{run.started:%Y-%m-%d %H:%M}", run.name, score, interval,
                      run.tags.get("folds", "")[:8], run.status.lower())  # fmt: skip
    console = Console(soft_wrap=False, markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(width=160, markup=False, highlight=False)
    console.print(table)
    return 0


def scores_of(run: Run, metric: str) -> tuple[str, str]:
    """(score, interval) as text; empty where the run has none."""
    name = f"oof_{metric}"
    if name not in run.metrics:
        return "", ""
    low, high = run.metrics.get(f"{name}_low"), run.metrics.get(f"{name}_high")
    interval = f"{low:.4f} to {high:.4f}" if low is not None and high is not None else UNKNOWN
    return f"{run.metrics[name]:.4f}", interval


def by_units(found: Sequence[Run], settings: Experiment) -> list[Run]:
    """The runs with intervals by units: those of an older version computed again, or left out where that cannot be."""
    name = f"oof_{settings.competition.metric}"
    runs, rule = list(found), None
    for i, run in enumerate(runs):
        if run.tags.get("resampled") != RESAMPLED and f"{name}_low" in run.metrics:
            rule = rule or _rule(settings)
            metrics = {key: value for key, value in run.metrics.items() if key not in (f"{name}_low", f"{name}_high")}
            behind = run.tags.get("cv_runs", run.id).split()  # no table holds the rows of a blend
            interval = (
                interval_again(behind[0], rule, settings.competition.target, metrics[name])
                if len(behind) == 1
                else None
            )
            runs[i] = replace(run, metrics=metrics | (
                {f"{name}_low": interval.low, f"{name}_high": interval.high} if interval else {}))  # fmt: skip
    return runs


def interval_again(run_id: str, rule: str | Metric, kind: str, value: float) -> Interval | None:
    """By units, from the run's stored out-of-fold table; None where it is not to be had, or its score is another."""
    import pandas as pd

    from pipeline.crossval import arrays_of, oof_interval
    from pipeline.metrics import score
    from pipeline.tracking.runs import fetch

    with tempfile.TemporaryDirectory() as scratch:
        try:
            oof = pd.read_parquet(fetch(run_id, "oof.parquet", Path(scratch)))
            folds = pd.read_csv(fetch(run_id, "folds.csv", Path(scratch)), dtype=str, keep_default_na=False)
            same = abs(score(rule, *arrays_of(oof), kind) - value) < 1e-9
            return oof_interval(oof, folds, rule, kind) if same else None
        except Exception:  # MLflow raises many kinds; the table may be of another target
            return None


def _rule(settings: Experiment) -> str | Metric:
    """The metric as the competition's tables complete it; by its name alone where they cannot be read."""
    here = open_competition(settings.competition)
    return settings.competition.metric if here.mistakes else here.rule


def find(found: list[Run], name: str) -> Run:
    """The run whose id begins so. Raises `Mistakes` where that is none, or several."""
    chosen = [run for run in found if run.id.startswith(name)]
    if len(chosen) == 1:
        return chosen[0]
    known = ", ".join(f"{run.id[:8]} ({run.name})" for run in found[:8]) or "none: make train makes one"
    what = f"{len(chosen)} runs begin so" if chosen else "no finished run begins so"
    raise Mistakes([Mistake(f"RUNS: {name}", what, f"valid: {known}", "runs")])


def compare_runs(settings: Experiment, wanted: list[str]) -> int:
    """Compares each run with the first; without names, the youngest with the best of the others on its folds."""
    from pipeline.tracking.browse import runs

    tracker = connect(settings)
    found = [run for run in runs(tracker, ("cv",)) if run.status == "FINISHED"]
    chosen = [find(found, name) for name in wanted] if wanted else _usual_pair(found, settings)
    if len(chosen) < 2:
        raise Mistakes([Mistake("RUNS", f"{len(chosen)} run", 'valid: two or more, RUNS="a b"', "runs")])
    first, *others = chosen
    strangers = [run for run in others if run.tags.get("folds") != first.tags.get("folds")]
    if strangers:
        found_ = ", ".join(f"{run.id[:8]} {run.tags.get('folds', 'none')[:8]}" for run in strangers)
        valid = f"valid: runs on the folds of {first.id[:8]}, {first.tags.get('folds', 'none')[:8]}"
        raise Mistakes([Mistake("RUNS", f"other folds ({found_})", valid, "folds")])
    for other in others:
        _compare(tracker, settings, first, other)
    return 0


def _usual_pair(found: list[Run], settings: Experiment) -> list[Run]:
    """[the best of the others, the youngest], of the runs on the youngest one's folds."""
    from pipeline.config.metric import parse_metric

    metric = parse_metric(settings.competition.metric, settings.competition.target)
    name = f"oof_{metric.name}"
    if not found:
        return []
    youngest, *others = found
    rivals = [run for run in others if run.tags.get("folds") == youngest.tags.get("folds") and name in run.metrics]
    sign = 1 if metric.greater_is_better else -1
    return [max(rivals, key=lambda run: sign * run.metrics[name]), youngest] if rivals else [youngest]


def _compare(tracker: Tracker, settings: Experiment, a: Run, b: Run) -> None:
    import pandas as pd

    from pipeline.compare import compare, verdict
    from pipeline.report.pictures import differences

    competition = settings.competition
    with tempfile.TemporaryDirectory() as scratch:
        tables = [pd.read_parquet(_file_of(run, "oof.parquet", Path(scratch))) for run in (a, b)]
        folds = pd.read_csv(_file_of(a, "folds.csv", Path(scratch)), dtype=str, keep_default_na=False)
        groups = dict(zip(folds["image_id"], folds["group"], strict=True))
        try:
            result = compare(tables[0], tables[1], groups, _rule(settings), competition.target)
        except ValueError as error:
            raise Mistakes([Mistake("RUNS", str(error), "valid: runs on the same rows and folds", "runs")]) from None
        names = [f"{run.id[:8]} ({run.name})" for run in (a, b)]
        lines = verdict(result, a.id[:8], b.id[:8], competition.metric)
        counted = f" in {result.n_units:,} groups and single rows" if result.n_units < result.n_rows else ""
        say("compare", f"{names[0]}  with  {names[1]}, {result.n_rows:,} rows{counted}")
        for line in lines:
            say("compare", line)
        picture = Path(scratch) / "differences.png"
        differences(result.difference, (result.low, result.high), result.by_fold, competition.metric, names, picture)
        _log(tracker, result, a, b, names, lines, competition.metric, picture)


def _file_of(run: Run, name: str, scratch: Path) -> Path:
    """One of the run's artifacts, downloaded. Raises `Mistakes` where it cannot be had."""
    from pipeline.tracking.runs import fetch

    (folder := scratch / run.id).mkdir(exist_ok=True)
    try:
        return fetch(run.id, name, folder)
    except Exception as error:  # MLflow raises many kinds; each means that the file cannot be had
        found = f"MLflow does not give its {name} ({type(error).__name__})"
        raise Mistakes([Mistake(f"RUNS: {run.id[:8]}", found, "valid: a run with its artifacts", "runs")]) from error


def _log(
    tracker: Tracker, result: Comparison, a: Run, b: Run, names: list[str], lines: list[str], metric: str, picture: Path
) -> None:
    """A run of its own, which names both."""
    tags = {"stage": "comparison", "cv_run_a": a.id, "cv_run_b": b.id, "folds": a.tags.get("folds", "")}
    run_id = tracker.start(f"comparison · {a.id[:8]} · {b.id[:8]} · {result.difference:+.4f}", tags)
    links = [f"[{name}]({run_link(tracker.experiment_id, run.id)})"
             for name, run in zip(names, (a, b), strict=True)]  # fmt: skip
    tracker.describe(
        run_id, "\n\n".join([f"Paired comparison of {links[0]} with {links[1]} on the same folds.", *lines])
    )
    values = asdict(result)
    by_fold = {f"difference_fold_{fold}": value for fold, value in values.pop("by_fold").items()}
    tracker.metrics(run_id, {f"{key}_{metric}" if "score" in key else key: v for key, v in values.items()} | by_fold)
    tracker.artifact(run_id, picture)
    tracker.text(run_id, json.dumps(asdict(result), indent=1), "comparison.json")
    tracker.end(run_id)


def sync(settings: Experiment, wanted: list[str]) -> int:
    """Sends what earlier commands kept; connecting does that. Exit status 1 where it cannot."""
    earlier = connect(settings).earlier
    waiting = f"; {n} more of commands that still run" if (n := earlier.n_running) else ""
    waiting += f"; {n} of commands that wrote to another store" if (n := earlier.n_elsewhere) else ""
    waiting += f"; {n} that MLflow does not take now" if (n := earlier.n_stuck) else ""
    nothing = "nothing was sent" if waiting else "nothing is waiting to be sent"
    say("sync", (f"{earlier.n_sent} calls sent" if earlier.n_sent else nothing) + waiting)
    return int(bool(earlier.n_stuck))


VERBS: dict[str, Callable[[Experiment, list[str]], int]] = {"runs": list_runs, "compare": compare_runs, "sync": sync}

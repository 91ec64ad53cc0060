"""The memory of the leaderboard: scores that came home, all submissions beside each other, which two to select."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import receipts
from pipeline.config.metric import parse_metric
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.config.settings import ROOT, RUNS
from pipeline.kept import where_allowed
from pipeline.stages.members import file_of
from pipeline.stages.record import UNKNOWN, by_units, connect, scores_of
from pipeline.work import Work, say

if TYPE_CHECKING:
    from pipeline.answers import Answers
    from pipeline.config.settings import Experiment
    from pipeline.leaderboard import Entry
    from pipeline.tracking.browse import Run
    from pipeline.tracking.runs import Tracker


@dataclass(frozen=True)
class Line:
    """A submission and its scores; None: not known."""

    run: Run
    cv: float
    low: float
    high: float
    public: float | None
    private: float | None
    test: float | None  # on answers that are known


def find_submission(tracker: Tracker, wanted: str, work: Work) -> Run:
    """By the beginning of its run's id, or a path to its file; without either, the experiment's last one.

    Raises `Mistakes` where that is none, or several.
    """
    from pipeline.tracking.browse import runs

    found = [run for run in runs(tracker, ("submission",)) if run.status == "FINISHED"]
    path = file_named(wanted)
    if path:
        digest = receipts.sha256(path)
        chosen = [run for run in found if run.tags.get("submission_sha256") == digest][:1]  # the youngest of equal ones
    elif wanted:
        chosen = [run for run in found if run.id.startswith(wanted)]
    else:
        last = receipts.read(work.folder, "submit")
        chosen = [run for run in found if last and run.id == work.in_mlflow(last)]
    if len(chosen) == 1:
        return chosen[0]
    known = ", ".join(f"{run.id[:8]} ({run.name})" for run in found[:8]) or "none yet: make submit makes one"
    what = f"{len(chosen)} submissions begin so" if chosen else "no such submission in MLflow"
    raise Mistakes([Mistake(f"SUBMISSION={wanted}", what, f"valid: a run's id or the file's path; {known}", "runs")])


def file_named(wanted: str) -> Path | None:
    """The file that `SUBMISSION` names, where it names one."""
    if not wanted.endswith(".csv"):
        return None
    path = Path(wanted) if Path(wanted).is_file() else ROOT / wanted
    if not path.is_file():
        raise Mistakes([Mistake(f"SUBMISSION={wanted}", "there is no such file", "valid: a submission's file", "runs")])
    return path


def write_down(work: Work, wanted: str, public: float | None, private: float | None) -> int:
    """Writes what the leaderboard said to the submission's run. Returns the exit status."""
    metric = parse_metric(work.settings.competition.metric, work.settings.competition.target)
    given = {"PUBLIC": public, "PRIVATE": private}
    least, most = metric.span
    span = "any number" if math.isinf(least) else f"{least:g} or more" if math.isinf(most) else f"{least:g} to {most:g}"
    wrong = [
        Mistake(name, f"found {value}", f"valid: a {metric.name}, {span}", "scores")
        for name, value in given.items()
        if value is not None and not (math.isfinite(value) and least <= value <= most)
    ]
    if wrong:
        raise Mistakes(wrong)
    tracker = connect(work.settings)
    run = find_submission(tracker, wanted, work)
    values = {f"{name.lower()}_{metric.name}": value for name, value in given.items() if value is not None}
    tracker.metrics(run.id, values)
    cv = run.metrics.get(f"oof_{metric.name}")
    for name, value in values.items():
        beside = f", {value - cv:+.4f} off its cross-validation ({cv:.4f})" if cv is not None else ""
        say("score", f"{name} {value:.4f} of submission {run.id[:8]}{beside}")
    return 0


def lines_of(tracker: Tracker, settings: Experiment) -> list[Line]:
    """All finished submissions with a cross-validated score, the youngest first."""
    from pipeline.tracking.browse import runs

    metric = settings.competition.metric
    found = by_units([run for run in runs(tracker, ("submission",)) if run.status == "FINISHED"], settings)
    of_file: dict[tuple[str, str], float] = {}  # what one submission scored, another of the same bytes would
    for run in found:
        for name in ("public", "private", "test"):
            if f"{name}_{metric}" in run.metrics:
                digest = run.tags.get("submission_sha256", run.id)
                of_file.setdefault((digest, name), run.metrics[f"{name}_{metric}"])
    return [
        Line(
            run,
            run.metrics[f"oof_{metric}"],
            run.metrics.get(f"oof_{metric}_low", run.metrics[f"oof_{metric}"]),
            run.metrics.get(f"oof_{metric}_high", run.metrics[f"oof_{metric}"]),
            *(
                run.metrics.get(f"{name}_{metric}", of_file.get((run.tags.get("submission_sha256", run.id), name)))
                for name in ("public", "private", "test")
            ),
        )
        for run in found
        if f"oof_{metric}" in run.metrics
    ]


def board(work: Work) -> int:
    """Every submission with what it was expected to score and what it did; and which two to select in the end."""
    from pipeline.answers import Answers
    from pipeline.leaderboard import deviating, expected, rank_correlation, recommended
    from pipeline.report.blend_pictures import board as picture

    settings = work.settings
    metric = parse_metric(settings.competition.metric, settings.competition.target)
    tracker = connect(settings)
    lines = lines_of(tracker, settings)
    if not lines:
        say("board", f"no submission yet in {settings.competition.name}: make submit makes the first")
        return 0
    where = "public" if any(line.public is not None for line in lines) else "test"
    values = [line.public if where == "public" else line.test for line in lines]
    files = [line.run.tags.get("submission_sha256", line.run.id) for line in lines]
    # a file counts once, however often it was made
    places = [i for i, value in enumerate(values) if value is not None and files.index(files[i]) == i]
    pairs = [(lines[i].cv, value) for i in places if (value := values[i]) is not None]
    odd = [False] * len(lines)
    for i, is_odd in zip(places, deviating(pairs), strict=True):
        odd[i] = is_odd
    codec = Answers.of(work.competition)
    best, other, same = recommended([_entry(line, codec) for line in lines], metric.greater_is_better)
    chosen = [best] if other is None else [best, other]
    _show(lines, values, where, metric.name, odd, chosen)
    if (rank := rank_correlation(pairs)) is not None:
        say("board", f"rank correlation of cross-validation and {where} score: {rank:+.2f} (n = {len(pairs)})")
    if likely := expected(lines[best].cv, pairs, metric.span):
        interval = f" ({likely.low:.4f} to {likely.high:.4f})" if likely.low is not None else ""
        say("board", f"{where} less cross-validated: {likely.shift:+.4f} on average (n = {likely.n}); the best by "
            f"cross-validation should show {likely.value:.4f}{interval}")  # fmt: skip
    falls = [line.private - line.public for line in lines if line.private is not None and line.public is not None]
    if falls:
        say("board", f"private less public: {sum(falls) / len(falls):+.4f} on average (n = {len(falls)})")
    if len({line.run.tags.get("folds", "") for line in lines}) > 1:
        say(
            "board", "note: not all were validated on the same folds, so their cross-validated scores compare less well"
        )
    if any(f"oof_{metric.name}_low" not in line.run.metrics for line in lines):
        say("board", f"{UNKNOWN}: an interval of an older version, for which all rows without a group were one group")
    told = f"select {lines[best].run.id[:8]}, the best by cross-validation"
    if other is not None:
        told += (f", and {lines[other].run.id[:8]}, the most different among the good ({100 * (1 - same):.1f} % of the "
                 "rows answered otherwise)")  # fmt: skip
    elif len(lines) > 1:
        told += "; no other is about as good and answers otherwise"
    say("board", told)
    path = RUNS / f"board-{settings.competition.name}.png"
    cv = [(line.cv, line.low, line.high) for line in lines]
    ahead = [line.run.metrics.get(f"expected_{metric.name}") for line in lines]
    names = [line.run.id[:8] for line in lines]
    with where_allowed():
        picture(cv, ahead, values, names, odd, chosen, metric.name, f"on the {where} rows", path)
        say("board", f"picture {shown(path)}")
    return 0


def _entry(line: Line, codec: Answers) -> Entry:
    """answers: row by row, in the sample's order; of numbers the tenths of their standard deviation."""
    import pandas as pd

    from pipeline.leaderboard import Entry

    try:
        path = file_of(line.run.id, "submission.csv")
        decided = codec.decided(pd.read_csv(path, dtype=str, keep_default_na=False))
        if codec.target == "regression":
            decided = (decided / max(float(decided.std()), 1e-12)).round(1)
        answers = tuple(map(str, decided.tolist()))
    except (Mistakes, ValueError, KeyError):  # its file is gone or of another form: it stands by its scores
        answers = ()
    return Entry(line.run.id, line.cv, line.low, line.high, answers)


def _expected(run: Run, metric: str) -> str:
    """The score to expect of its average, as it was recorded before any was known."""
    names = [f"expected_{metric}{end}" for end in ("", "_low", "_high")]
    if not set(names) <= run.metrics.keys():
        return ""
    value, low, high = (run.metrics[name] for name in names)
    return f"{value:.4f} ({low:.4f} to {high:.4f})"


def _show(
    lines: list[Line], values: list[float | None], where: str, metric: str, odd: list[bool], chosen: list[int]
) -> None:
    from rich.console import Console
    from rich.table import Table

    def text(value: float | None) -> str:
        return "" if value is None else f"{value:.4f}"

    columns = ["submission", "made (UTC)", "of", f"cv {metric}", "95 % interval", "expected (95 % interval)",
               "public", "private"]  # fmt: skip
    with_test = any(line.test is not None for line in lines)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in [*columns, *(["test"] if with_test else []), ""]:
        table.add_column(column, no_wrap=True, overflow="ellipsis", min_width=None if column in ("of", "") else 6)
    for i, line in enumerate(lines):
        runs = line.run.tags.get("cv_runs", line.run.tags.get("cv_run", "")).split()
        notes = ["select"] if i in chosen else []
        value = values[i]
        if odd[i] and value is not None:
            notes.append(f"deviates: {value - line.cv:+.4f}")
        table.add_row(
            line.run.id[:8], f"{line.run.started:%Y-%m-%d %H:%M}",
            f"{line.run.tags.get('experiment_file', '')}, {f'{len(runs)} runs, ' if len(runs) > 1 else ''}"
            f"{line.run.tags.get('blend', '')}".removesuffix(", "),
            text(line.cv), scores_of(line.run, metric)[1], _expected(line.run, metric), text(line.public),
            text(line.private),
            *([text(line.test)] if with_test else []), ", ".join(notes),
        )  # fmt: skip
    console = Console(markup=False, highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    console = Console(width=170, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))

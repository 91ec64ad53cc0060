"""What a submission says of itself: on the terminal, in MLflow, and in the record that it can be made again from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from pipeline import receipts
from pipeline.config.metric import parse_metric
from pipeline.config.submission import View
from pipeline.stages.describe import link, machine
from pipeline.stages.members import Member
from pipeline.work import Work, say

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.ensemble.blends import Blend, Candidate
    from pipeline.ensemble.recipe import Recipe
    from pipeline.ensemble.weights import Rows
    from pipeline.stages.expectation import Outlook
    from pipeline.tracking.browse import Run

FORMAT = "podium submission 1"


class RecordedMember(BaseModel):
    """A run behind a submission. checkpoints: file -> its hash."""

    run: str
    name: str
    weight: Annotated[float, Field(ge=0, le=1)]
    store: Annotated[int, Field(ge=32, le=4096)] | Literal["off"]  # short side of the decoded images
    checkpoints: dict[Annotated[str, Field(pattern=r"^fold-[\w-]+\.safetensors$")], str] = Field(min_length=1)


class Recorded(BaseModel):
    """The part of `submission.json` that a submission can be made from again; a stranger may have written it."""

    competition: str
    answer: str = ""  # of an earlier record: not known
    sha256: str
    n_rows: int
    members: list[RecordedMember] = Field(min_length=1)
    average: Literal["probs", "logits", "ranks", "vote"]
    views: list[View]
    bias: list[Annotated[float, Field(allow_inf_nan=False)]]
    test_images: str
    sample: str
    code_version: str
    machine: dict[str, str]


@dataclass(frozen=True)
class Seen:
    """What a look at the answers found. n_changed: rows that differ from the submission before."""

    shares: dict[str, dict[str, float]] = field(default_factory=dict)  # class -> training, out_of_fold, test
    warnings: list[str] = field(default_factory=list)
    n_changed: int | str = "no previous"
    form: str = ""  # what stands in a cell, in words


@dataclass(frozen=True)
class Likely:
    """What the leaderboard should show."""

    figures: dict[str, Any]
    words: list[str]


def tell_blend(blend: Blend, metric: str, ahead: Outlook) -> None:
    """A table of the candidates, where there were several; what was chosen; and where it should gain nothing."""
    if len(blend.candidates) > 2 or blend.singles:
        for line in table_of(blend, metric, ahead):
            say("submit", line)
    say("submit", blend.reason)
    for line in ahead.doubts(blend):
        say("submit", line)


def table_of(blend: Blend, metric: str, ahead: Outlook) -> list[str]:
    """Lines: each run by itself, then each blend, its score cross-fitted, its gain, and what its average should score.

    The last says what the choice is worth on the test set, where each row is answered by the mean of all models.
    """
    width = max(len(one.name) for one in (*blend.candidates, *blend.singles))
    n = len(f"{blend.chosen.score:.4f}")
    lines = [f"{'':<{width}}  {metric:>{n}}  95 % interval       expected  better than      by (interval)"]
    for one in (*blend.singles, *blend.candidates):
        against = (
            f"{one.against:<15}  {one.gain:+.4f} ({one.gain_low:+.4f} to {one.gain_high:+.4f})" if one.against else ""
        )
        taken = "  <- taken" if one is blend.chosen else ""
        interval = f"{one.low:.4f} to {one.high:.4f}"
        expected = f"{ahead.of[one.name]:.4f}" if one.name in ahead.of else ""
        score = f"{one.score:>{max(n, len(metric))}.4f}"
        lines.append(f"{one.name:<{width}}  {score}  {interval:<18}  {expected:<8}  {against}{taken}".rstrip())
    return lines


def about_blend(work: Work, blend: Blend, members: Sequence[Member], ahead: Outlook) -> list[str]:
    """Lines for the run's page, in Markdown."""
    chosen, metric = blend.chosen, work.competition.metric
    lines = [f"**{metric} {chosen.score:.4f}** out of fold, 95 % interval {chosen.low:.4f} to {chosen.high:.4f}; "
             f"{blend.reason}", ahead.words, *ahead.doubts(blend)]  # fmt: skip
    if len(members) > 1:
        rows = ["| run | weight | alone |", "| --- | --- | --- |"]
        for member, weight, single in zip(members, chosen.weights, blend.singles, strict=True):
            rows.append(f"| [{member.title}]({link(work, member.run_id)}) | {weight:.3f} | {single.score:.4f} |")
        lines.append("\n".join(rows))
    return lines


def looked_at(
    work: Work, rows: Rows, chosen: Candidate, before: pd.DataFrame | None, now: pd.DataFrame | None
) -> Seen:  # fmt: skip
    """Compares the answers with what they were out of fold, and with the submission before."""
    import numpy as np

    from pipeline.answers import Answers
    from pipeline.shares import moved_since, shares, told, unlike_training
    from pipeline.submit import n_changed

    competition = work.competition
    codec = Answers.of(competition)
    try:
        changed = n_changed(before, now, competition)
    except (ValueError, KeyError):  # classes or texts were other ones then
        before, changed = None, "no previous"
    warnings: list[str] = []
    if now is not None and isinstance(changed, int) and len(now):
        same = 1 - changed / len(now)
        if same < 0.5:
            warnings.append(f"only {100 * same:.0f} % of the rows are answered as in the submission before")
    if competition.target == "regression" or now is None:
        return Seen({}, warnings, changed, competition.cells)
    n_classes = len(competition.classes)
    answers = codec.decided(now)
    of_training = shares(rows.targets.astype(int), n_classes)
    of_oof, of_test = shares(codec.answered(chosen.outputs), n_classes), shares(answers, n_classes)
    n_units = len(np.unique(rows.units))
    labels = competition.class_means or competition.classes
    unlike = unlike_training(labels, of_oof, of_test, n_units, len(answers) * n_units / len(rows.targets))
    if unlike:
        warnings.append(f"answered more or less often than out of fold: {told(unlike)}")
    if before is not None and isinstance(changed, int):
        moved = moved_since(labels, shares(codec.decided(before), n_classes), of_test)
        if moved:
            warnings.append(f"moved since the submission before: {told(moved)}")
    each = zip(competition.classes, of_training, of_oof, of_test, strict=True)
    found = {name: {"training": float(a), "out_of_fold": float(b), "test": float(c)} for name, a, b, c in each}
    return Seen(found, warnings, changed, competition.cells)


def expectation(work: Work, cv: float) -> Likely:
    """From pairs of scores that earlier submissions of the competition brought home."""
    from pipeline.leaderboard import expected
    from pipeline.tracking.browse import runs

    if work.tracker.failure:
        return Likely({}, [])
    metric = work.competition.metric
    span = parse_metric(metric, work.competition.target).span
    names = (f"oof_{metric}", f"public_{metric}")
    try:
        past = runs(work.tracker, ("submission",))
    except Exception:  # MLflow is gone: nothing is expected, and the submission is worth more
        return Likely({}, [])
    better = _better(work, past, cv)
    pairs = [(run.metrics[names[0]], run.metrics[names[1]]) for run in past if set(names) <= run.metrics.keys()]
    found = expected(cv, pairs, span)
    if found is None:
        return Likely({}, better)
    interval = f", {found.low:.4f} to {found.high:.4f}" if found.low is not None else ""
    counted = f"{found.n} earlier submission{'s' if found.n > 1 else ''}"
    words = (f"the public leaderboard should show about {found.value:.4f}{interval}: {counted} stood "
             f"{found.shift:+.4f} off the cross-validation there"
             f"{'' if found.low is not None else ', too few to say how sure that is'}")  # fmt: skip
    figures = {"value": found.value, "low": found.low, "high": found.high, "n": found.n, "shift": found.shift}
    return Likely(figures, [words, *better])


def _better(work: Work, past: Sequence[Run], cv: float) -> list[str]:
    """The best earlier submission that was validated on the same folds, where it was better than this one."""
    metric = parse_metric(work.competition.metric, work.competition.target)
    name, folds = f"oof_{metric.name}", receipts.read(work.folder, "folds")
    same = [run for run in past if name in run.metrics and folds and run.tags.get("folds") == folds.figures["hash"]]
    best = max(same, key=lambda run: run.metrics[name] * (1 if metric.greater_is_better else -1), default=None)
    if best is None or not metric.better(round(best.metrics[name], 4), round(cv, 4)):
        return []
    return [f"note: submission {best.id[:8]} was cross-validated at {best.metrics[name]:.4f}, better than this one"]


def record_of(
    work: Work, members: Sequence[Member], blend: Blend, recipe: Recipe, seen: Seen, likely: Likely, ahead: Outlook,
    sha256: str,
) -> dict[str, Any]:  # fmt: skip
    """`submission.json`: the recipe and everything it stands on; `make verify` needs nothing else."""
    from pipeline.model import checkpoint_info, pick_device

    competition, chosen = work.competition, blend.chosen
    infos = [[checkpoint_info(path) for path in member.checkpoints] for member in members]
    candidates = [*blend.singles, *blend.candidates]
    return {
        "format": FORMAT,
        "competition": competition.name,
        "metric": competition.metric,
        "answer": competition.cells or competition.form.answer,
        "sha256": sha256,
        "n_rows": len(competition.test_rows),
        "cv_run": members[0].run_id,
        "members": [
            {
                "run": member.run_id,
                "name": member.title,
                "weight": weight,
                "checkpoints": dict(zip((path.name for path in member.checkpoints), member.hashes, strict=True)),
                "store": member.side,
                "preprocessing": of_member[0].preprocessing.model_dump(mode="json"),
                "settings": of_member[0].hashes.get("settings"),
                "code_version": of_member[0].code,
            }
            for member, weight, of_member in zip(members, recipe.weights, infos, strict=True)
        ],
        "average": recipe.average,
        "views": list(work.settings.submit.views),
        "bias": list(recipe.bias),
        "folds": infos[0][0].hashes.get("folds"),
        "train_images": work.image_hashes[0],
        "test_images": work.image_hashes[1],
        "sample": receipts.sha256(competition.sample_csv) if competition.sample_csv else "none",
        "out_of_fold": {"score": chosen.score, "low": chosen.low, "high": chosen.high},
        "chosen": f"{chosen.name}: {blend.reason}",
        "blends": [
            {
                "name": one.name,
                "weights": list(one.weights),
                "score": one.score,
                "low": one.low,
                "high": one.high,
                "score_where_fitted": one.seen,
                "leaderboard_expected": ahead.of.get(one.name),
            }
            | ({"better_than": one.against, "by": one.gain, "by_low": one.gain_low, "by_high": one.gain_high}
               if one.against else {})
            for one in candidates
        ],
        "leaderboard_expected": ahead.recorded,
        "leaderboard_by_earlier_scores": likely.figures,
        "shares": seen.shares,
        "warnings": seen.warnings,
        "n_rows_changed_since_previous": seen.n_changed,
        "code_version": receipts.code_version(),
        "machine": machine(pick_device(work.settings.train.device)),
    }  # fmt: skip

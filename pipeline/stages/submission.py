"""The stages after training: `submit` blends, predicts and writes the file, `score` says what it was worth."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import receipts
from pipeline.atomic import atomic
from pipeline.competition.paths import root_of
from pipeline.config.metric import RESAMPLED
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.config.settings import fingerprint
from pipeline.receipts import Receipt
from pipeline.stages.blend_record import about_blend, expectation, looked_at, record_of, tell_blend
from pipeline.stages.describe import dataset, page
from pipeline.stages.expectation import Outlook, outlook
from pipeline.stages.members import Member, check_alike, check_views, chosen_runs, fetched, file_of, own
from pipeline.stages.predictions import oof_outputs, test_means
from pipeline.stages.training import train
from pipeline.work import Work, say

if TYPE_CHECKING:
    from pipeline.compare import Comparison
    from pipeline.ensemble.blends import Blend
    from pipeline.ensemble.recipe import Recipe
    from pipeline.ensemble.weights import Rows


@dataclass(frozen=True)
class Blended:
    """What members come to together. folds: of the out-of-fold rows."""

    rows: Rows
    blend: Blend
    recipe: Recipe
    views: Comparison | None  # of the views with none, all else alike and every run weighing the same


def submit(work: Work) -> Receipt:
    """Predicts the test images with every model of the chosen runs, blended. Leaves `submission.csv` and `.json`.

    `work.runs` names the runs; without it, it is the experiment's own training, made where it is not yet.
    """
    refuse_without_test(work)
    trained, tracker, runs = None, None, []
    if work.runs:
        work.check()
        tracker, runs = chosen_runs(work, work.runs)
        made_of = {"runs": " ".join(run.id[:8] for run in runs)}
    else:
        trained = train(work)
        models = [made["sha256"] for name, made in trained.artifacts.items() if name.endswith(".safetensors")]
        made_of = {"runs": f"its own {fingerprint([trained.fingerprint, models])[:8]}"}
    inputs = made_of | {
        **work.settings.flat("submit"),
        "metric": work.competition.rule.described,
        "answer": work.competition.cells or work.competition.form.answer,
        "resampled": RESAMPLED,
        "test images": work.image_hashes[1],
        "sample submission": receipts.sha256(work.competition.sample_csv)[:16]
        if work.competition.sample_csv
        else "none",
    }
    if done := work.done("submit", inputs, fetchable=False):
        return done
    work.check()
    started = time.perf_counter()
    members = [own(work, trained)] if trained else [fetched(work, tracker, run) for run in runs if tracker]
    check_alike(members, work)
    check_views(members, work)
    blended = blend_of(work, members)
    test = test_means(work, members, work.settings.submit)
    ahead = outlook(work, members, blended.rows, blended.blend, test)
    tell_blend(blended.blend, work.competition.metric, ahead)
    outputs = blended.recipe.outputs(test.averaged, work.competition.target)
    return _write(work, inputs, members, blended, outputs, ahead, started)


def refuse_without_test(work: Work) -> None:
    """Raises `Mistakes` where there is nothing to submit."""
    if not work.competition.test_rows and not work.competition.mistakes:
        found, valid = (
            "there is no test set, so nothing can be submitted",
            "valid: make train, or a competition with one",
        )
        raise Mistakes([Mistake("competition", found, valid, "submission")])


def blend_of(work: Work, members: Sequence[Member]) -> Blended:
    """Chooses weights and bias on out-of-fold rows alone."""
    from pipeline.competition.grouping import units
    from pipeline.crossval import arrays_of
    from pipeline.ensemble.blends import choose, compared
    from pipeline.ensemble.recipe import Recipe
    from pipeline.ensemble.weights import Rows, equal
    from pipeline.progress import Steps

    settings, competition = work.settings.submit, work.competition
    oof = members[0].oof
    group_of = dict(zip(members[0].folds["image_id"], members[0].folds["group"], strict=True))
    each = oof_outputs(work, members, settings)
    of_row = units(oof["image_id"], group_of)
    rows = Rows(each, arrays_of(oof)[0], of_row, competition.rule, competition.target, settings.average)
    views = None
    if settings.views:
        plain = oof_outputs(work, members, settings.model_copy(update={"views": ()}))
        alike = equal(rows)
        views = compared(replace(rows, members=plain).outputs(alike), rows.outputs(alike), rows, oof["fold"].to_numpy())
        told = f"views {', '.join(settings.views)}: {competition.metric} {views.difference:+.4f} "
        helps = "help" if views.low > 0 else "harm" if views.high < 0 else "make no difference beyond noise"
        say("submit", told + f"({views.low:+.4f} to {views.high:+.4f}): they {helps}")
    with Steps("submit") as tell:
        names = [member.name for member in members]
        blend = choose(rows, oof["fold"].to_numpy(), settings.blend, settings.bias, settings.seed, names, tell)
    return Blended(rows, blend, Recipe(settings.average, blend.chosen.weights, blend.chosen.bias), views)


def _write(
    work: Work, inputs: dict[str, Any], members: Sequence[Member], blended: Blended, outputs: Any, ahead: Outlook,
    started: float,
) -> Receipt:  # fmt: skip
    from pipeline import submit as room
    from pipeline.report.blend_pictures import blends

    competition, chosen = work.competition, blended.blend.chosen
    path, record_path = work.folder / "submission.csv", work.folder / "submission.json"
    fresh = work.folder / ".submission.csv.tmp"  # takes its place with its record, when that is made
    before = _previous(work)
    room.write_submission(competition, outputs, fresh)
    now = room.read_submission(fresh)
    seen = looked_at(work, blended.rows, chosen, before, now)
    likely = expectation(work, chosen.score)
    record = record_of(work, members, blended.blend, blended.recipe, seen, likely, ahead, receipts.sha256(fresh))
    if blended.views:
        gain = {"by": blended.views.difference, "by_low": blended.views.low, "by_high": blended.views.high}
        record["views_against_none"] = gain
    with atomic(record_path) as temporary:
        temporary.write_text(json.dumps(record, indent=1))
        os.replace(fresh, path)
    picture = work.folder / "blends.png"
    blends(blended.blend.candidates, blended.blend.singles, chosen.name, competition.metric, picture)
    settings = work.settings.submit
    identity = {"cv_run": members[0].run_id, "cv_runs": " ".join(member.run_id for member in members),
                "submission_sha256": record["sha256"], "folds": record["folds"] or "none",
                "resampled": RESAMPLED,
                "blend": ", ".join([chosen.name, settings.average, *settings.views])}  # fmt: skip
    n_models = sum(len(member.checkpoints) for member in members)
    told = f"{record['n_rows']:,} rows, each the {_mean(work)} of {n_models} models{_of_runs(members)}"
    with work.run("submission", f"submission · {chosen.score:.4f}", inputs, identity) as run_id:
        name = f"oof_{competition.metric}"
        work.tracker.metrics(run_id, {name: chosen.score, f"{name}_low": chosen.low, f"{name}_high": chosen.high})
        work.tracker.metrics(run_id, ahead.metrics(competition.metric))
        work.tracker.inputs(run_id, [dataset(competition, "test", work.image_hashes[1])])
        about = about_blend(work, blended.blend, members, ahead)
        lines = [told, *about, *seen.warnings, *likely.words, seen.form]
        links = {f"cross-validation {member.name}": member.run_id for member in members}
        work.tracker.describe(run_id, page(work, "A submission.", lines, "submit", links))
        for file in (path, record_path, picture):
            work.tracker.artifact(run_id, file)
    for warning in seen.warnings:
        say("submit", f"warning: {warning}")
    for line in (*likely.words, *filter(None, [seen.form])):
        say("submit", line)
    since = "" if seen.n_changed == "no previous" else f"; {seen.n_changed:,} rows differ from the submission before"
    say("submit", told + since)
    figures = {"n_rows": record["n_rows"], "score": chosen.score, "low": chosen.low, "high": chosen.high,
               "expected": ahead.recorded}  # fmt: skip
    return work.finish("submit", inputs, [path, record_path], run_id, figures, started)


def _previous(work: Work) -> Any:
    """The last submission that was recorded, as strings; None where there is none, or it cannot be read any more."""
    from pipeline.submit import read_submission

    last = receipts.read(work.folder, "submit")
    if last is None:
        return None
    try:
        path = work.folder / "submission.csv"
        if not path.is_file() or receipts.sha256(path) != last.artifacts["submission.csv"]["sha256"]:
            path = file_of(work.in_mlflow(last), "submission.csv")  # a command was killed since, or a hand was at it
        return read_submission(path)
    except (Mistakes, ValueError, OSError):
        return None


def _mean(work: Work) -> str:
    words = {"probs": "mean", "logits": "mean of the logits", "ranks": "mean of the ranks", "vote": "vote"}
    views = work.settings.submit.views
    return words[work.settings.submit.average] + (f" over {', '.join(views)}" if views else "")


def _of_runs(members: Sequence[Member]) -> str:
    return f" of {len(members)} runs" if len(members) > 1 else ""


def score(work: Work) -> Receipt:
    """Compares the submission with the organisers' answers and writes the score to the submission's run."""
    settings = work.settings.competition
    answers = root_of(settings) / settings.answers_csv
    if not work.competition.mistakes:  # the first access makes the embedded competition; else submit tells them
        from pipeline.score import check_answers

        check_answers(answers)
    submitted = _as_submitted(work)
    if submitted:
        own, now = submitted.settings, work.settings.flat()
        differs = sorted(key for key in now if key in own and own[key] != now[key] and not key.startswith("tune."))
        if differs:
            say("score", f"of the last submission, which was made with other {', '.join(differs[:4])}")
    else:
        submitted = submit(work)
    inputs = {
        "submission": submitted.artifacts["submission.csv"]["sha256"][:16],
        "answers": receipts.sha256(answers)[:16],
        "metric": work.competition.rule.described,
        "answer": work.competition.cells or work.competition.form.answer,
    }
    done = work.done("score", inputs)
    if not done:
        started = time.perf_counter()
        from pipeline.score import score_submission

        path = work.resolve(submitted, "submission.csv")
        value, n_rows = score_submission(path, answers, work.competition, lambda line: say("score", line))
        work.tracker.metrics(submitted.run_id, {f"test_{settings.metric}": value})
        done = work.finish("score", inputs, [], submitted.run_id, {"score": value, "n_rows": n_rows}, started)
    say("score", f"test {settings.metric} {done.figures['score']:.4f} on {done.figures['n_rows']:,} images")
    return done


def _as_submitted(work: Work) -> Receipt | None:
    """The last submission, whatever the settings are by now; None where there is none for these test images."""
    last = receipts.read(work.folder, "submit")
    if last is None or work.competition.mistakes or last.inputs.get("test images") != work.image_hashes[1]:
        return None
    path = work.folder / last.artifacts["submission.csv"]["path"]
    if path.is_file():
        return last if receipts.sha256(path) == last.artifacts["submission.csv"]["sha256"] else None
    return last if work.in_mlflow(last) else None


def summary(work: Work) -> str:
    """What the user wants to know in the end, from the receipts alone."""
    made = receipts.read(work.folder, "submit")
    assert made is not None, "it has just been made"
    figures, expected = made.figures, made.figures.get("expected", {})
    experiment = "" if work.experiment == "experiments/digits.yaml" else f" EXP={work.experiment}"
    rows = {
        f"cross-validated {work.competition.metric}": (
            f"{figures['score']:.4f}  (95 % interval {figures['low']:.4f} to {figures['high']:.4f})"
        ),
        "expected on the test set": (
            f"{expected['value']:.4f}  (95 % interval {expected['low']:.4f} to {expected['high']:.4f})"
            if "value" in expected
            else expected.get("how", "not recorded by the version that made it")
        ),
        "submission": shown(Path(work.folder / "submission.csv")),
        "browse all runs in MLflow": f"make ui{experiment}",
    }
    return "\n" + "\n".join(f"{label:<28} {value}" for label, value in rows.items())

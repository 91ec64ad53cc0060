"""The stage that searches for better settings: `make tune`. From an experiment to `experiments/NAME-tuned.yaml`, or to
the knowledge that nothing was better than noise."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import kept, receipts
from pipeline.atomic import atomic
from pipeline.config.metric import RESAMPLED, parse_metric
from pipeline.config.mistakes import shown
from pipeline.config.settings import ROOT, fingerprint
from pipeline.config.tuning import JOURNAL, SEARCHED
from pipeline.receipts import Receipt
from pipeline.stages.data import folds
from pipeline.stages.describe import dataset, machine, page
from pipeline.stages.tune_begin import (
    check_rest,
    checked_space,
    devices_of,
    driver_of,
    fresh_table_of,
    given_space,
    take_over,
    with_measured_rate,
)
from pipeline.work import Work, say

if TYPE_CHECKING:
    from pipeline.stages.tune_result import Outcome
    from pipeline.stages.tune_search import Search
    from pipeline.tune.pool import Pool
    from pipeline.tune.space import Space
    from pipeline.tune.study import Study


def tune(work: Work) -> Receipt:
    """Searches, chooses, reports. Leaves `tune-HASH/` with the report, and the experiment's `-tuned` file."""
    settings, config = work.settings, work.settings.tune
    given = given_space(work)
    space = checked_space(work, given)  # what is wrong with it is told before anything is written
    check_rest(work, space)
    if config.storage != "journal":
        from pipeline.tune.store import open_storage

        open_storage(config.storage, work.folder)  # raises where it leads nowhere
    fold_receipt = folds(work)
    context = {
        "folds": fold_receipt.figures["hash"],
        "train images": work.image_hashes[0],
        "metric": work.competition.rule.described,
        "target": work.competition.target,
        "classes": list(work.competition.classes),
        "weights": work.weights_hash,
        "parts": list(work.competition.class_means) if settings.model.heads == "parts" else "one head",
    }
    inputs = {**settings.flat(*SEARCHED, "folds", "tune"), **context}
    for key in ("tune.jobs", "tune.storage"):  # how it is run, not what it finds
        inputs.pop(key)
    before = receipts.read(work.folder, "tune")
    written = before.figures.get("written", {}) if before else {}
    gone = bool(written) and not (ROOT / written["file"]).is_file()
    if gone:
        say("tune", f"{written['file']} is gone")
        written = {}
    elif done := work.done("tune", inputs):
        _tell_again(done, config.hours != "off")
        return done
    work.check()
    started = time.perf_counter()
    return _run(work, space, fold_receipt, context, inputs, written, started)


def _run(
    work: Work, space: Space, fold_receipt: Receipt, context: Mapping[str, Any], inputs: dict[str, Any],
    written: Mapping[str, Any], started: float,
) -> Receipt:  # fmt: skip
    from pipeline.folds.split import read_folds, splits
    from pipeline.model import pick_device
    from pipeline.report.tune_page import write_tune
    from pipeline.stages.tune_record import StudyRecord
    from pipeline.stages.tune_result import summary, write_tuned
    from pipeline.stages.tune_search import SPENT, Search, search
    from pipeline.stages.tune_worker import start
    from pipeline.study_progress import StudyProgress
    from pipeline.tune.importance import importance
    from pipeline.tune.pool import Pool
    from pipeline.tune.store import open_storage
    from pipeline.tune.study import About, Study

    settings, config = work.settings, work.settings.tune
    table = work.resolve(fold_receipt, "folds.csv")
    numbers = tuple(split.number for split in splits(read_folds(table)))
    metric = parse_metric(work.competition.metric, work.competition.target)
    sign = 1 if metric.greater_is_better else -1
    storage = open_storage(config.storage, work.folder / JOURNAL)
    devices = devices_of(work)
    arguments = [(work.experiment, work.overrides, device, len(devices)) for device in devices]
    begun = time.monotonic()
    with Pool(start, arguments) as pool:
        if config.lr_range_test:
            space = with_measured_rate(work, space, pool, table, context)
        shared = fingerprint([dict(context), list(settings.train.seeds[:1])])
        name = f"{work.name}-{fingerprint([shared, space.hash, settings.flat(*SEARCHED)])[:8]}"
        study = Study(storage, space, About(name, shared, sign, numbers, driver_of(work.folder)), config)
        folder = work.folder / f"tune-{name.rpartition('-')[2]}"
        folder.mkdir(parents=True, exist_ok=True)
        take_over(study)
        fresh = fresh_table_of(work, table, folder)
        record = StudyRecord(work, folder, inputs)
        title = f"study · {settings.model.name}"
        tags = {"folds": context["folds"], "study": name, **machine(pick_device(settings.train.device))}
        with work.run("tune", title, inputs, tags, resume=record.runs.get("study", "")) as run_id:
            record.note("study", run_id)
            work.tracker.params(run_id, {f"space.{axis.name}": _shown_axis(axis) for axis in space.axes})
            work.tracker.inputs(run_id, [dataset(work.competition, "train", work.image_hashes[0])])
            spent_s = kept.read_json(folder / SPENT).get("seconds", 0.0)
            _tell_start(work, study, len(devices), spent_s)
            with StudyProgress(metric.name, len(numbers), config.trials, sign) as display:
                identity = {"folds": context["folds"], "images": context["train images"]}
                clock = (begun - spent_s, len(devices))
                at = Search(work, study, folder, table, fresh, identity, record, display, *clock)
                search(at, pool)
                outcome = _confirm(at, pool)
            chosen = next((c for c in outcome.confirmed if c.is_chosen), None)
            tuned: dict[str, str] = {}
            files = []
            if chosen and (chosen.is_better or work.force):
                place = write_tuned(work, study, outcome, chosen, written)
                tuned = {"file": shown(place), "sha256": receipts.sha256(place)}
                work.tracker.artifact(run_id, place)
            result = summary(work, study, outcome, importance(study))
            with atomic(folder / "study.json") as temporary:
                temporary.write_text(json.dumps(result, indent=1))
            files = [*write_tune(result, folder), folder / "study.json"]
            for path in files:
                work.tracker.artifact(run_id, path)
            figures = {**_figures(study, outcome, tuned), "written": tuned or dict(written)}
            work.tracker.metrics(run_id, {key: v for key, v in figures.items() if isinstance(v, int | float)})
            lines = [*outcome.verdict, *([outcome.optimism] if outcome.optimism else []), "The artifact `tune.html` is "
                     "the report."]  # fmt: skip
            work.tracker.describe(run_id, page(work, "A search for better settings.", lines, "tune",
                                               {"folds": fold_receipt.run_id}))  # fmt: skip
            work.tracker.rename(run_id, f"{title} · {outcome.verdict[0].partition(':')[0]}")
    receipt = work.finish("tune", inputs, files, run_id, figures, started)
    kept.remove(folder / SPENT)
    _tell_end(outcome, folder, tuned, written)
    return receipt


def _confirm(at: Search, pool: Pool) -> Outcome:
    """The best few and the baseline, trained again by fresh seeds and compared in pairs."""
    from pipeline.folds.split import read_folds, splits
    from pipeline.stages.tune_result import Outcome
    from pipeline.stages.tune_search import fresh_seeds, train_again
    from pipeline.tune.choice import candidates, choose, optimism, verdict

    work, study, sign = at.work, at.study, at.study.about.sign
    config = work.settings.tune.confirm
    seeds = fresh_seeds(work.settings.train.seeds, config.seeds)
    baseline = study.baseline
    best = candidates(study.trials, at.n_that_fit(at.left_s), sign)
    if baseline is None or not best:
        return Outcome([], verdict([], str(at.metric[0]), work.name, False), "", seeds)
    table = read_folds(at.fresh_table)
    folds_ = [split.number for split in splits(table)]
    again = f"trial{'s' if len(best) > 1 else ''} {', '.join(str(t.number) for t in best)} and the experiment itself"
    told = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    say("tune", f"{again} are trained again on all folds, by {told} ...")
    trained = train_again(at, pool, [baseline, *best], seeds, folds_, at.display.training_again)
    if not trained or trained[0][0] is not baseline:
        return Outcome([], ["nothing to choose from: the experiment itself does not train by fresh seeds"], "", seeds)
    if len(trained) == 1:
        return Outcome([], ["nothing to choose from: none of the best few trains by fresh seeds"], "", seeds)
    group_of = dict(zip(table["image_id"], table["group"], strict=True))
    confirmed = choose(trained[0], trained[1:], group_of, *at.metric, sign)
    words = verdict(confirmed, str(at.metric[0]), work.experiment or work.name, config.folds == "fresh")
    return Outcome(confirmed, words, optimism(confirmed, sign), seeds)


def _figures(study: Study, outcome: Outcome, tuned: dict[str, str]) -> dict[str, Any]:
    states = [trial.state for trial in study.trials]
    figures: dict[str, Any] = {f"n_{state}": states.count(state) for state in ("finished", "pruned", "failed")}
    figures |= {"resampled": RESAMPLED, "tuned": tuned, "verdict": list(outcome.verdict), "study": study.about.name}
    if study.best and study.best.value is not None:
        figures["best_in_study"] = study.best.value
    if study.baseline and study.baseline.value is not None:
        figures["baseline_in_study"] = study.baseline.value
    for c in outcome.confirmed:
        if c.comparison is None:
            figures["baseline"] = c.fresh
        elif c.is_chosen:
            figures |= {"chosen": c.fresh, "trial": c.trial.number, "difference": c.comparison.difference,
                        "low": c.comparison.low, "high": c.comparison.high}  # fmt: skip
    return figures


def _tell_start(work: Work, study: Study, n_workers: int, spent_s: float) -> None:
    config = work.settings.tune
    until = [] if config.trials == "off" else [f"{config.trials} trials"]
    until += [] if config.hours == "off" else [f"{config.hours:g} hours"]
    had = f"; {len(study.trials)} trials are there" if study.trials else ""
    inherited = sum(bool(trial.inherited) for trial in study.trials)
    had += f", {inherited} of them from an older study" if inherited else ""
    say("tune", f"study {study.about.name}, up to {' or '.join(until)}, {n_workers} at once{had}")
    if config.hours != "off":
        kept_for = config.confirm.seeds * (1 + config.confirm.top)
        left = f"; earlier commands took {spent_s / 60:.1f} min of them" if spent_s else ""
        who = f"the best {config.confirm.top} and the experiment itself, by fresh seeds"
        say("tune", f"of the {60 * config.hours:.4g} min the choice ({who}) takes as long as {kept_for} trainings, and "
            f"trials the rest{left}")  # fmt: skip
    if len(work.settings.train.seeds) > 1:
        say("tune", f"trials are trained by the first seed alone, {work.settings.train.seeds[0]}")
    for axis in study.space.axes if study.is_new else ():
        say("tune", f"  {axis.name:<30} {_shown_axis(axis)}")


def _shown_axis(axis: Any) -> str:
    if axis.kind == "choice":
        text = ", ".join(map(str, axis.encoded))
    else:
        scale = ", log" if axis.log else f", step {axis.step:g}" if axis.step else ""
        batch = f", for {axis.per_batch} of the effective batch" if axis.per_batch != "off" else ""
        text = f"{axis.low:g} to {axis.high:g}{scale}{batch}"
    return text + (f"   where {axis.condition}" if axis.condition else "")


def _tell_end(outcome: Outcome, folder: Path, tuned: Mapping[str, str], written: Mapping[str, str]) -> None:
    for line in [*outcome.verdict, *([outcome.optimism] if outcome.optimism else [])]:
        say("tune", line)
    say("tune", f"report {shown(folder / 'tune.html')}")
    if tuned:
        say("tune", f"{tuned['file']} is ready: make train EXP={tuned['file']}")
    elif outcome.confirmed:
        if written:
            say("tune", f"{written['file']} is of an earlier search, and stays as it is")
        say("tune", "so no new experiment is written; FORCE=1 writes it all the same")


def _tell_again(done: Receipt, is_timed: bool) -> None:
    if is_timed:
        say("tune", "the hours are over; another HOURS, or TRIALS, goes on with the study")
    if done.figures.get("resampled") != RESAMPLED:
        say("tune", "an older version judged this, for which all rows without a group were one; FORCE=1 judges again")
    for line in done.figures["verdict"]:
        say("tune", line)
    if done.figures["tuned"]:
        say("tune", f"{done.figures['tuned']['file']} is there: make train EXP={done.figures['tuned']['file']}")

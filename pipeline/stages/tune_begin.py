"""What a search needs before it begins: its space, checked; its workers; whose trials it goes on with.

In: the experiment. Out: what `tuning` puts together. Everything that can be wrong is told here, before a file is
written.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import kept
from pipeline.competition.labels import check_label_bounds
from pipeline.config.load import builder
from pipeline.config.mistakes import Mistake, Mistakes
from pipeline.config.settings import Experiment, fingerprint
from pipeline.config.tuning import SEARCHED, Parameter
from pipeline.stages.data import other_folds
from pipeline.work import Work, say

if TYPE_CHECKING:
    from pipeline.tune.pool import Pool
    from pipeline.tune.space import Space
    from pipeline.tune.study import Study

STALE_S = 900  # after which another machine's driver counts as gone


def given_space(work: Work) -> dict[str, tuple[Parameter, ...]]:
    """`tune.space`, or the default one for this experiment."""
    from pipeline.tune.default_space import default_space

    settings = work.settings
    if settings.tune.space:
        return dict(settings.tune.space)
    n_rows = len(work.competition.train_rows)
    found = default_space(settings, n_rows)
    return {key: tuple(Parameter.model_validate(each) for each in several) for key, several in found.items()}


def checked_space(work: Work, given: Mapping[str, tuple[Parameter, ...]]) -> Space:
    from pipeline.tune.space_checks import make_space

    changed = builder(work.experiment, work.overrides)

    def build(changes: Mapping[str, Any]) -> Experiment:
        settings = changed(changes)
        if wrong := check_label_bounds(settings.competition, settings.train.label_bounds):
            raise Mistakes(wrong)
        return settings

    return make_space(given, work.settings, build)


def check_rest(work: Work, space: Space) -> None:
    """What the space cannot say by itself: models and optimizers that are none, folds that cannot be made anew."""
    mistakes = []
    folds_, confirm = work.settings.folds, work.settings.tune.confirm
    if confirm.folds == "fresh" and folds_.file != "none":
        valid = "valid: same; or folds.file=none"
        mistakes.append(Mistake("tune.confirm.folds", "found fresh, beside a table of your own", valid, "tune"))
    tried = [axis for axis in space.axes if axis.key.startswith(("model.", "train.optimizer", "train.compile"))]
    if any(axis.kind == "choice" for axis in tried):
        from pipeline.model_checks import check_model

        for axis in tried:
            for value in axis.choices:
                settings = space.settings_with(axis, value)
                mistakes += [Mistake(f"tune.space.{axis.name}", f"the choice {value} is refused ({m.found})", m.valid,
                                     "tune.space values")
                             for m in check_model(settings, max(work.task.n_logits, 1))]  # fmt: skip
    if mistakes:
        raise Mistakes(mistakes)


def devices_of(work: Work) -> list[str]:
    """One entry a worker: `auto`, or a GPU of its own."""
    import torch

    from pipeline.model import pick_device

    settings = work.settings
    n_gpus = torch.cuda.device_count() if pick_device(settings.train.device).type == "cuda" else 0
    several = settings.train.device == "auto" and n_gpus > 1
    n = settings.tune.jobs if settings.tune.jobs != "auto" else n_gpus if several else 1
    return [f"cuda:{i % n_gpus}" if several else "auto" for i in range(n)]


def driver_of(folder: Path) -> str:
    """Of this checkout and experiment, for as long as its folder lives."""
    path = folder / ".driver"
    if not kept.is_intact(path):
        with kept.sealed(path) as temporary:
            temporary.write_text(uuid.uuid4().hex[:12])
    return path.read_text()


def take_over(study: Study) -> None:
    """Trials that a machine left running which has not been heard of for long."""
    study.note(f"driver {study.about.driver}", time.time())  # before it begins any, or it would count as gone
    others = {t.driver for t in study.trials if t.state == "running"} - {study.about.driver}
    noted = study.noted()
    gone = {driver for driver in others if time.time() - noted.get(f"driver {driver}", 0.0) > STALE_S}
    if n := study.adopt(gone):
        say("tune", f"{n} trials of a machine that is gone are gone on with here")


def fresh_table_of(work: Work, table: Path, folder: Path) -> Path:
    """The folds that the choice is made on."""
    if work.settings.tune.confirm.folds == "same":
        return table
    from pipeline.folds.split import write_folds

    path = folder / "fresh-folds.csv"
    if not kept.is_intact(path):
        write_folds(other_folds(work, work.settings.folds.seed + 1000), path)
    return path


def with_measured_rate(work: Work, space: Space, pool: Pool, table: Path, context: Mapping[str, Any]) -> Space:
    """The space with ranges of train.lr as a range test finds them, one for each optimizer that may be drawn."""
    from pipeline.stages.tune_search import measured_ranges
    from pipeline.tune.default_space import is_adaptive

    path = work.folder / "lr-range.json"
    known: dict[str, Any] = kept.read_json(path)
    key = fingerprint([work.settings.flat(*SEARCHED), dict(context)])
    axis = next((axis for axis in space.axes if axis.key == "train.optimizer.name"), None)
    names = [str(name) for name in axis.choices] if axis else [work.settings.train.optimizer.name]
    if set(known.get(key, {})) != set(names):
        say("tune", f"measuring which learning rates train, for {', '.join(names)} ...")
        by_name = {
            name: (space.settings_with(axis, name) if axis else work.settings).model_dump(mode="json", include=set(
                SEARCHED)) for name in names
        }  # fmt: skip
        found = measured_ranges(work.folder / "lr-range", pool, by_name, work.settings.train.seeds[0], table)
        kept.write_json(path, {**known, key: found})
        known[key] = found
    parameters = []
    for name in names:
        found = known[key][name]
        say("tune", f"train.lr for {name}: {found['low']:.2g} to {found['high']:.2g} ({found['note']})")
        rule = "sqrt" if is_adaptive(name) else "linear"
        when = {"train.optimizer.name": name} if axis else {}
        parameters.append(Parameter(low=found["low"], high=found["high"], log=True, per_batch=rule, when=when))
    given = {**given_space(work), "train.lr": tuple(parameters)}
    return checked_space(work, given)

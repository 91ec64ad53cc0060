"""The study: every trial ever begun, on a store that outlives any process; asks for the next and takes what came of
it.

In: a space, a store, what happened. Out: trials to train and verdicts on them. Optuna keeps the record and draws the
points; what it is shown to draw from is our own estimate of each trial (`prune.estimate`), so that one given up early
teaches as much as its curve says. What the next point is depends on the trials before it and on its number alone, not
on any state in memory: a driver that was killed asks for the same one again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipeline.config.mistakes import Mistakes
from pipeline.config.settings import Experiment
from pipeline.config.tuning import SEARCHED, Tune
from pipeline.tune.prune import Trial, behind_across, behind_within, best_of, estimate
from pipeline.tune.space import Axis, Space, searched

STATES = {
    TrialState.RUNNING: "running", TrialState.WAITING: "running", TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
}  # fmt: skip
TRIES = 200  # points that were drawn before or cannot work, until the space counts as exhausted
FROM_MODEL = 12  # of those; the rest is drawn at random, since a model may insist
optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line a trial is the driver's to say
logging.getLogger("optuna.storages").setLevel(logging.ERROR)


@dataclass(frozen=True)
class About:
    """What a study is of. name: with a hash of all this. context: of data, folds and metric, which older studies must
    share for their trials to say anything here."""

    name: str
    context: str
    sign: int  # -1 where less is better
    folds: tuple[int, ...]
    driver: str  # whose trials this one goes on with


class Study:
    def __init__(self, storage: BaseStorage, space: Space, about: About, config: Tune):
        self.space, self.about, self.config = space, about, config
        self._storage = storage
        names = {summary.study_name for summary in storage.get_all_studies()}
        self.is_new = about.name not in names
        direction = "maximize" if about.sign > 0 else "minimize"
        self._optuna = optuna.create_study(
            storage=storage, study_name=about.name, direction=direction, load_if_exists=True
        )
        self._id = self._optuna._study_id
        if "context" not in self._optuna.user_attrs:
            self._inherit(names - {about.name})
            self._optuna.set_user_attr("context", about.context)  # last: a kill before it inherits again
        self.trials: list[Trial] = []
        self._ids: dict[int, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads what other machines did to the same study."""
        known = {trial.number: trial for trial in self.trials}
        self.trials = []
        for frozen in self._storage.get_all_trials(self._id, deepcopy=False):
            self._ids[frozen.number] = frozen._trial_id
            mine = known.get(frozen.number)
            is_mine = mine is not None and mine.driver == self.about.driver
            self.trials.append(mine if mine is not None and is_mine else _trial(frozen))

    @property
    def n_own(self) -> int:
        """Trials of this study itself."""
        return sum(not trial.inherited for trial in self.trials)

    @property
    def best(self) -> Trial | None:
        return best_of(self.trials, self.about.sign)

    @property
    def baseline(self) -> Trial | None:
        return next((trial for trial in self.trials if trial.is_baseline and trial.state != "failed"), None)

    def running(self) -> list[Trial]:
        """This driver's, to be gone on with."""
        return [trial for trial in self.trials if trial.state == "running" and trial.driver == self.about.driver]

    def adopt(self, drivers: set[str]) -> int:
        """Takes over what other drivers, which are gone, left running; their number."""
        left = [trial for trial in self.trials if trial.state == "running" and trial.driver in drivers]
        for trial in left:
            trial.driver = self.about.driver
            self._set(trial, "driver", trial.driver)
        return len(left)

    # --- asking ----------------------------------------------------------------------------------------------------

    def ask(self) -> Trial | None:
        """The next setting to train, noted as running; None where the space holds no other."""
        self.refresh()
        if self.baseline is None:
            return self._begin(self.space.point(self.space.base) or {}, {}, self.space.base, is_baseline=True)
        known = {trial.identity for trial in self.trials}
        sampler = self._model()
        for attempt in range(TRIES):
            raw = self._draw(sampler, len(self.trials), attempt)
            try:
                settings = self.space.settings(raw)
            except Mistakes:
                continue  # values that cannot work together, refused before they cost anything
            if searched(settings) not in known:
                return self._begin(raw, self.space.changes(raw), settings)
        return None

    def _model(self) -> optuna.Study:
        """A study in memory for the sampler to learn from: every trial at what it came to, or would have."""
        best, sign = self.best, self.about.sign
        study = optuna.create_study(direction="maximize")
        told: list[tuple[Trial, float | None]] = [(trial, estimate(trial, best, sign)) for trial in self.trials]
        values = [sign * value for _, value in told if value is not None]
        worst = min(values) - 0.5 * (max(values) - min(values)) if values else 0.0
        for trial, value in told:
            distributions = {axis.name: distribution(axis) for axis in self.space.axes if axis.name in trial.raw}
            if not trial.raw or (value is None and trial.state not in ("running", "failed")):
                continue
            if trial.state == "running":
                study.add_trial(create_trial(state=TrialState.RUNNING, params=trial.raw, distributions=distributions))
            else:  # one that failed is no better than the worst
                score = worst if value is None or trial.state == "failed" else sign * value
                study.add_trial(create_trial(value=score, params=trial.raw, distributions=distributions))
        return study

    def _draw(self, model: optuna.Study, number: int, attempt: int) -> dict[str, Any]:
        rng = np.random.SeedSequence([self.config.seed, number, attempt])
        seed = int(rng.generate_state(1)[0])
        if attempt < FROM_MODEL:
            model.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.config.startup)
        else:
            model.sampler = optuna.samplers.RandomSampler(seed=seed)
        trial = model.ask()
        raw = self.space.draw(lambda axis: _suggest(trial, axis))
        model.tell(trial, state=TrialState.FAIL)  # it is no trial yet, and must not count as one
        return raw

    def _begin(
        self, raw: dict[str, Any], changes: dict[str, Any], settings: Experiment, is_baseline: bool = False
    ) -> Trial:
        number = len(self.trials)
        rng = np.random.default_rng([self.config.seed, number])
        order = tuple(int(fold) for fold in rng.permutation(self.about.folds))
        trial = Trial(number, raw, changes, searched(settings), settings.train.epochs, order,
                      is_baseline=is_baseline, driver=self.about.driver)  # fmt: skip
        frozen = create_trial(
            state=TrialState.RUNNING,
            params=raw,
            distributions={axis.name: distribution(axis) for axis in self.space.axes if axis.name in raw},
            user_attrs={
                "changes": changes, "identity": trial.identity, "n_epochs": trial.n_epochs, "order": list(order),
                "is_baseline": is_baseline, "driver": trial.driver,
                "settings": settings.model_dump(mode="json", include=set(SEARCHED)),
            },
        )  # fmt: skip
        trial_id = self._storage.create_new_trial(self._id, template_trial=frozen)  # one write: whole or absent
        trial.number = self._storage.get_trial_number_from_id(trial_id)  # another machine may have been quicker
        self._ids[trial.number] = trial_id
        self.refresh()
        self.trials[trial.number] = trial
        return trial

    # --- telling ---------------------------------------------------------------------------------------------------

    def epoch(self, trial: Trial, fold: int, curve: Sequence[float]) -> str:
        """Why the trial is given up after an epoch, or empty. curve: of the fold so far."""
        trial.curves[fold] = list(curve)
        best = self.best
        if best is None or trial.is_baseline:
            return ""
        return behind_within(trial, self.trials, best, self.config.prune, self.about.sign)

    def between_folds(self, trial: Trial) -> str:
        """Why the trial is given up after a fold, or empty."""
        best = self.best
        if best is None or trial.is_baseline:
            return ""
        return behind_across(trial, best, self.config.prune, self.about.sign)

    def keep_curve(
        self, trial: Trial, fold: int, curve: Sequence[float], seconds: float, is_done: bool, final: float | None = None
    ) -> None:
        """final: of the weights that a whole fold kept, which need not be the last epoch's."""
        trial.curves[fold] = list(curve)
        trial.seconds += seconds
        if is_done:
            trial.done.add(fold)
        kept = {"scores": list(curve), "seconds": round(seconds, 2), "is_done": is_done}
        if final is not None:
            trial.finals[fold] = kept["final"] = final
        self._set(trial, f"curve-{fold}", kept)
        so_far = estimate(trial, self.best, self.about.sign)
        so_far = so_far if so_far is not None else float(np.mean([c[-1] for c in trial.curves.values() if c] or [0]))
        self._storage.set_trial_intermediate_value(self._ids[trial.number], trial.n_trained, so_far)

    def finish(self, trial: Trial, value: float) -> None:
        """value: of all out-of-fold rows."""
        self._end(trial, TrialState.COMPLETE, "", value)

    def prune(self, trial: Trial, why: str) -> None:
        self._end(trial, TrialState.PRUNED, why)

    def fail(self, trial: Trial, why: str) -> None:
        """It diverged, did not fit into the memory, or broke."""
        self._end(trial, TrialState.FAIL, why)

    def _end(self, trial: Trial, state: TrialState, why: str, value: float | None = None) -> None:
        trial.state, trial.why, trial.value = STATES[state], why, value
        if why:
            self._set(trial, "why", why)
        self._storage.set_trial_state_values(self._ids[trial.number], state, None if value is None else [value])

    def _set(self, trial: Trial, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._ids[trial.number], key, value)

    def note(self, key: str, value: Any) -> None:
        """Of the whole study."""
        self._optuna.set_user_attr(key, value)

    def noted(self) -> Mapping[str, Any]:
        return self._optuna.user_attrs

    # --- what older studies know -----------------------------------------------------------------------------------

    def _inherit(self, names: set[str]) -> None:
        """Trials of studies of the same data and folds whose settings this space can mean, with what they came to."""
        known = {frozen.user_attrs.get("identity") for frozen in self._storage.get_all_trials(self._id, deepcopy=False)}
        dump = self.space.base.model_dump(mode="json")
        for name in sorted(names):
            other = self._storage.get_study_id_from_name(name)
            if self._storage.get_study_user_attrs(other).get("context") != self.about.context:
                continue
            for frozen in self._storage.get_all_trials(other, deepcopy=False):
                attrs = frozen.user_attrs
                if frozen.state not in (TrialState.COMPLETE, TrialState.PRUNED) or attrs["identity"] in known:
                    continue
                settings = Experiment.model_validate({**dump, **attrs["settings"]})
                is_baseline = searched(settings) == searched(self.space.base)
                if is_baseline and frozen.state != TrialState.COMPLETE:
                    continue  # given up where it was one of many; all is compared with it here, so it is trained whole
                raw = self.space.point(settings)
                if raw is None and not is_baseline:
                    continue
                known.add(attrs["identity"])
                more = {"inherited": attrs.get("inherited") or name, "is_baseline": is_baseline,
                        "changes": {} if is_baseline else self.space.changes(raw or {})}  # fmt: skip
                axes = [axis for axis in self.space.axes if axis.name in (raw or {})]
                copy = create_trial(
                    state=frozen.state, value=frozen.value, params=raw or {}, user_attrs={**attrs, **more},
                    distributions={axis.name: distribution(axis) for axis in axes},
                    intermediate_values=frozen.intermediate_values,
                )  # fmt: skip
                self._storage.create_new_trial(self._id, template_trial=copy)


def _trial(frozen: FrozenTrial) -> Trial:
    attrs = frozen.user_attrs
    kept = {int(key.removeprefix("curve-")): value for key, value in attrs.items() if key.startswith("curve-")}
    ordered = [fold for fold in attrs.get("order", []) if fold in kept]
    return Trial(
        number=frozen.number,
        raw=dict(frozen.params),
        changes=attrs.get("changes", {}),
        identity=attrs.get("identity", ""),
        n_epochs=attrs.get("n_epochs", 1),
        order=tuple(attrs.get("order", ())),
        state=STATES[frozen.state],
        why=attrs.get("why", ""),
        value=frozen.value if frozen.state == TrialState.COMPLETE else None,
        curves={fold: list(kept[fold]["scores"]) for fold in ordered},
        done={fold for fold in ordered if kept[fold]["is_done"]},
        finals={fold: kept[fold]["final"] for fold in ordered if "final" in kept[fold]},
        seconds=sum(entry["seconds"] for entry in kept.values()),
        is_baseline=attrs.get("is_baseline", False),
        inherited=attrs.get("inherited", ""),
        driver=attrs.get("driver", ""),
    )


def distribution(axis: Axis) -> BaseDistribution:
    if axis.kind == "choice":
        return CategoricalDistribution(axis.encoded)
    if axis.kind == "int":
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=max(int(axis.step), 1))
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step or None)


def _suggest(trial: optuna.Trial, axis: Axis) -> Any:
    if axis.kind == "choice":
        return trial.suggest_categorical(axis.name, axis.encoded)
    if axis.kind == "int":
        return trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.log, step=max(int(axis.step), 1))
    return trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log, step=axis.step or None)

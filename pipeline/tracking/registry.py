"""The competition's registered model: its versions, and the best of them called champion.

In: a saved package (`package.save_package`) and the out-of-fold score of its cross-validation. Out: a version of the
registered model named after the competition, and its alias `champion`, which moves only for more than luck. All
functions raise what MLflow raises; the caller decides what that stops.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import FileInfo, LoggedModel, LoggedModelOutput, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.config.metric import RESAMPLED
from pipeline.tracking.uploads import Refused, Unseen, check_seen, files_of

ALIAS = "champion"
MODEL_FILE = "MLmodel"  # without it a package is none
OUR_ID = "podium.id"  # tag by which what was made is found again


@dataclass(frozen=True)
class Score:
    """Out of fold, with its 95 % interval; what a version's tags hold. folds: the hash of the folds table."""

    metric: str
    value: float
    low: float
    high: float
    greater_is_better: bool
    cv_run: str
    folds: str
    by_units: bool = True  # the interval; one of an older version took all rows without a group as one

    def tags(self) -> dict[str, str]:
        return {
            "metric": self.metric,
            "oof_score": repr(self.value),
            "oof_low": repr(self.low),
            "oof_high": repr(self.high),
            "direction": "greater" if self.greater_is_better else "less",
            "cv_run": self.cv_run,
            "folds": self.folds,
            "resampled": RESAMPLED if self.by_units else "",
        }

    @classmethod
    def of(cls, tags: dict[str, str]) -> "Score":
        """Raises KeyError or ValueError for a version that somebody else registered."""
        value, low, high = (float(tags[name]) for name in ("oof_score", "oof_low", "oof_high"))
        by_units = tags.get("resampled") == RESAMPLED
        greater = tags["direction"] == "greater"
        return cls(tags["metric"], value, low, high, greater, tags["cv_run"], tags["folds"], by_units)


@dataclass(frozen=True)
class Version:
    """One version of a registered model. score: None where somebody else registered it."""

    number: str
    run_id: str
    score: Score | None
    why: str  # in words: why it became the champion, or did not


def log_ensemble(client: MlflowClient, experiment_id: str, call: Mapping[str, Any]) -> str:
    """Uploads a package to its run, registers it, and moves the alias where it leads. The version's number.

    call: as `Tracker.ensemble` makes it. May be called again after any failure: what is there already is found. Why the
    version is the champion, or is not, becomes its description.
    """
    name, score = call["name"], Score(**call["score"])
    model = _upload(client, experiment_id, call)
    version = _register(client, call, model, score)
    before = champion(client, name)
    if before is None:
        better, why = True, "the first of its name"
    elif before.number == str(version.version):
        return before.number
    else:
        # judged in pairs with the champion of that time: where another has taken its place, the intervals judge
        same = before.run_id == call["against"]
        old = before.score
        if old and same and call.get("interval"):
            old = replace(old, **call["interval"], by_units=True)
        better, why = beats(score, old, call["pairs"] if same else None)
    client.update_model_version(name, version.version, f"{'Champion' if better else 'Not the champion'}: {why}.")
    if better:  # last, since the description of a champion is not looked at again
        set_champion(client, name, version.version)
    return str(version.version)


def _upload(client: MlflowClient, experiment_id: str, call: Mapping[str, Any]) -> LoggedModel:
    """The logged model that holds the package."""
    known = client.search_logged_models([experiment_id], f"tags.`{OUR_ID}` = '{call['id']}'")
    if known:  # by a command that was killed, perhaps on the way
        model = known[0]
    else:
        tags = {OUR_ID: call["id"], "cv_run": call["run"]}
        model = client.create_logged_model(
            experiment_id, f"{call['name']}-ensemble", call["run"], tags, None, "ensemble"
        )
    sizes = files_of(Path(call["file"]))
    if MODEL_FILE not in sizes:
        raise Refused(f"{call['file']} holds no {MODEL_FILE}")

    def shown(folder: str | None) -> list[FileInfo]:
        return client.list_logged_model_artifacts(model.model_id, folder)

    if str(model.status) == "READY":
        with suppress(Unseen):  # registered by an earlier version, which did not look
            check_seen(shown, sizes)
            return model
    client.log_model_artifacts(model.model_id, call["file"])
    check_seen(shown, sizes)
    values = [Metric(key, value, call["time"], 0, model.model_id) for key, value in call["metrics"].items()]
    client.log_batch(call["run"], metrics=values)  # by which the Models view ranks
    name_output(client, call["run"], model.model_id, 0)
    return client.finalize_logged_model(model.model_id, "READY")


def name_output(client: MlflowClient, run_id: str, model_id: str, step: int) -> None:
    """The model among what the run made; MLflow refuses to be told twice."""
    outputs = client.get_run(run_id).outputs
    if model_id not in {made.model_id for made in (outputs.model_outputs if outputs else [])}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step)])


def _register(client: MlflowClient, call: Mapping[str, Any], model: LoggedModel, score: Score) -> ModelVersion:
    """The version that holds the logged model; made where there is none."""
    name = call["name"]
    try:
        client.create_registered_model(name, description="The folds' models as one; the alias champion is the best.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    there = [
        v for v in _all(client, f"name = '{name}' and run_id = '{call['run']}'") if v.source == model.artifact_location
    ]
    # by its place: MLflow 3.17 looks a `models:/` source up in the process's own store, not in this client's
    version = there[0] if there else client.create_model_version(
        name, model.artifact_location, call["run"], score.tags(), model_id=model.model_id
    )  # fmt: skip
    link = json.dumps([{"name": name, "version": str(version.version)}])  # as MLflow's own pages show it
    client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": link})
    return version


def set_champion(client: MlflowClient, name: str, number: str) -> None:
    """Whatever the scores say."""
    client.set_registered_model_alias(name, ALIAS, number)


def champion(client: MlflowClient, name: str) -> Version | None:
    """The version that bears the alias; None where there is none."""
    try:
        number = client.get_registered_model(name).aliases.get(ALIAS)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return _plain(client.get_model_version(name, number)) if number else None


def versions(client: MlflowClient, name: str) -> list[Version]:
    """All versions of `name`, the youngest first."""
    found = [_plain(made) for made in _all(client, f"name = '{name}'")]
    return sorted(found, key=lambda version: int(version.number), reverse=True)


def _all(client: MlflowClient, wanted: str) -> list[ModelVersion]:
    found, token = [], None
    while True:
        page = client.search_model_versions(wanted, page_token=token)
        found += page
        if not (token := page.token):
            return found


def beats(new: Score, old: Score | None, paired_low: float | None = None) -> tuple[bool, str]:
    """Whether the 95 % interval of the gain leaves out 0, and the reason in words.

    paired_low: lower end of that interval from a paired comparison on the same rows and folds (`compare.compare`),
    which is the sharper judge. Without it, from the two scores' own intervals by MOVER: the gain less the root of the
    sum of squares of the half-intervals that face each other (Zou & Donner 2008, Stat Med 27:1693). That takes the
    scores as independent; on the same rows they rise and fall together, so the rule errs on the side of the champion.
    """
    if old is None:
        return False, "the champion's score is not known; make promote moves the alias"
    if (new.metric, new.greater_is_better) != (old.metric, old.greater_is_better):
        return False, f"the champion was judged by {old.metric}, this one by {new.metric}; make promote moves the alias"
    sign = 1 if new.greater_is_better else -1
    gain = sign * (new.value - old.value)
    told = f"{new.metric} {new.value:.4f} against the champion's {old.value:.4f}"
    if paired_low is not None:
        how = f"the gain is {gain:+.4f}, and {paired_low:+.4f} at the lower end of its 95 % interval, paired row by row"
        return paired_low > 0, f"{told}: {how}"
    if not old.by_units:
        return False, f"{told}: the champion's interval is of an older version; make promote moves the alias"
    facing = (new.value - new.low, old.high - old.value) if sign > 0 else (new.high - new.value, old.value - old.low)
    margin = math.hypot(*facing)
    better = gain > margin
    return better, f"{told}: the gain {gain:+.4f} is {'' if better else 'not '}above {margin:.4f}, the most by luck"


def _plain(made: ModelVersion) -> Version:
    tags = dict(made.tags)
    try:
        score = Score.of(tags)
    except (KeyError, ValueError):
        score = None
    return Version(str(made.version), made.run_id or "", score, made.description or "")

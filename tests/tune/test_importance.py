"""Importance: on scores of which it is known what they depend on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.config.load import load
from pipeline.config.tuning import Parameter, Tune
from pipeline.tune.importance import MIN_TRIALS, importance
from pipeline.tune.prune import Trial
from pipeline.tune.space_checks import make_space
from pipeline.tune.store import open_storage
from pipeline.tune.study import About, Study

RATE = {"low": 1e-5, "high": 1e-1, "log": True}
FLIP = {"low": 0.0, "high": 1.0}
LOSSES = {"choices": ["cross_entropy", "focal"]}
GAMMA = {"low": 0.5, "high": 3.0, "when": {"train.loss.name": "focal"}}
SPACE = {"augment.flip": FLIP, "train.lr": RATE, "augment.preset": {"choices": ["off", "light", "strong"]}}
CONDITIONAL = {"augment.flip": FLIP, "train.loss.name": LOSSES, "train.loss.gamma": GAMMA}


@pytest.fixture
def searched(tmp_path: Path) -> Callable[..., Study]:
    """A study of random trials. value: of what was drawn; None: the trial fails."""

    def run(given: dict, value: Callable[[dict], float | None], n: int = 40, seed: int = 0, sign: int = 1) -> Study:
        path = tmp_path / f"own-{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({"competition": {"source": "csv", "name": "small", "root": "nowhere"}}))
        space = make_space({key: (Parameter.model_validate(each),) for key, each in given.items()}, load(path)[0],
                           lambda changes: load(path, (), changes)[0])  # fmt: skip
        study = Study(open_storage("journal", path.with_suffix(".journal")), space,
                      About("own", "data", sign, (0, 1), "here"), Tune(seed=seed, startup=1000))  # fmt: skip
        for _ in range(n):
            trial = study.ask()
            assert trial is not None
            if (found := value(trial.raw)) is None:
                study.fail(trial, "it diverged")
            else:
                study.finish(trial, found)
        return study

    return run


def rate(raw: dict) -> float:
    return float(np.log10(raw["train.lr"]))


ONE = {
    "train.lr": lambda raw: -abs(rate(raw) + 3),
    "augment.flip": lambda raw: (raw["augment.flip"] - 0.5) ** 2,
    "augment.preset": lambda raw: {"off": 0.1, "light": 0.5, "strong": 0.3}[raw["augment.preset"]],
}


@pytest.mark.parametrize(("key", "sign"), [("train.lr", 1), ("augment.flip", -1), ("augment.preset", 1)])
def test_what_alone_matters_comes_first_with_nearly_all_of_it(searched, key, sign):
    found = importance(searched(SPACE, ONE[key], sign=sign))
    shares = {entry["param"]: entry["share"] for entry in found}
    assert found[0]["param"] == key and found[0]["share"] > 0.8
    assert set(shares) == set(SPACE) and list(shares.values()) == sorted(shares.values(), reverse=True)
    assert min(shares.values()) >= 0 and sum(shares.values()) <= 1 + 1e-6
    assert {(entry["among"], entry["n"]) for entry in found} == {("all trials", 40)}


def test_shares_are_as_the_variances(searched):
    """Two axes, uniform on the same range; one with twice the slope explains four fifths."""
    study = searched({"augment.flip": FLIP, "augment.mixup": FLIP}, lambda raw: 2 * raw["augment.flip"] + raw["augment.mixup"],
                     n=50)  # fmt: skip
    shares = {entry["param"]: entry["share"] for entry in importance(study)}
    assert shares["augment.flip"] == pytest.approx(0.8, abs=0.12)
    assert shares["augment.mixup"] == pytest.approx(0.2, abs=0.12)


def test_what_only_some_trials_have_is_judged_among_them(searched):
    """A cross entropy has no gamma, and its scores, all alike, must not dilute what gamma does to the focal loss."""
    study = searched(
        CONDITIONAL, lambda raw: 0.5 if "train.loss.gamma" not in raw else 0.5 + 0.1 * (raw["train.loss.gamma"] - 1.75)
    )
    found = {entry["param"]: entry for entry in importance(study)}
    n_focal = sum(trial.raw["train.loss.name"] == "focal" for trial in study.trials)
    assert 10 < n_focal < 30
    gamma, flip = found["train.loss.gamma"], found["augment.flip"]
    assert (gamma["among"], gamma["n"]) == ("trials with train.loss.name=focal", n_focal) and gamma["share"] > 0.8
    assert (flip["among"], flip["n"]) == ("all trials", 40)
    assert (found["train.loss.name"]["among"], found["train.loss.name"]["n"]) == ("all trials", 40)


def test_a_condition_that_matters_is_not_ascribed_to_what_depends_on_it(searched):
    """The focal loss costs .3 whatever its gamma; among focal trials, flip makes what difference there is."""
    study = searched(CONDITIONAL, lambda raw: 0.01 * raw["augment.flip"] - 0.3 * ("train.loss.gamma" in raw))
    found = {entry["param"]: entry for entry in importance(study)}
    assert importance(study)[0]["param"] == "train.loss.name" and found["train.loss.name"]["share"] > 0.8
    assert found["train.loss.gamma"]["share"] < 0.2


def test_pruned_trials_count_with_what_they_would_have_come_to(searched):
    """Half of the trials are given up after one epoch, .2 below what they would have come to, as all are by then."""
    study = searched(SPACE, lambda raw: -abs(rate(raw) + 3), n=12)

    def curve(trial: Trial) -> list[float]:
        return [-abs(rate(trial.raw) + 3) - 0.2, -abs(rate(trial.raw) + 3)]

    for trial in study.trials:
        trial.curves = {fold: curve(trial) for fold in (0, 1)}
    for _ in range(28):
        trial = study.ask()
        study.keep_curve(trial, 0, curve(trial)[:1], 1.0, is_done=False)
        study.prune(trial, "behind")
    found = importance(study)
    assert found[0]["param"] == "train.lr" and found[0]["share"] > 0.8 and found[0]["n"] == 40


def test_too_few_trials_say_nothing(searched):
    for n in (0, 1, MIN_TRIALS - 1):
        assert importance(searched(SPACE, ONE["train.lr"], n=n)) == []
    assert importance(searched(SPACE, ONE["train.lr"], n=MIN_TRIALS))[0]["n"] == MIN_TRIALS == 8


def test_failed_and_running_trials_do_not_count(searched):
    study = searched(SPACE, lambda raw: None if raw["augment.flip"] > 0.6 else rate(raw), n=20)
    n = sum(trial.state == "finished" for trial in study.trials)
    assert MIN_TRIALS <= n < 20
    study.ask()
    assert {entry["n"] for entry in importance(study)} == {n}


def test_where_all_score_alike_nothing_mattered(searched):
    assert importance(searched(SPACE, lambda raw: 0.5, n=12)) == []


def test_a_space_of_one_axis_has_one_share(searched):
    [entry] = importance(searched({"train.lr": RATE}, ONE["train.lr"], n=20))
    assert entry["param"] == "train.lr" and entry["share"] > 0.8


def test_it_says_the_same_each_time(searched):
    study = searched(SPACE, lambda raw: rate(raw) + raw["augment.flip"], n=10)
    assert importance(study) == importance(study)

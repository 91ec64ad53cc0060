"""The default space: it holds the experiment that it is for, whatever that says, and nearly all of it can be trained."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm.optim
import yaml
from optuna.trial import create_trial

from pipeline.competition.labels import check_label_bounds
from pipeline.config.load import load
from pipeline.config.losses import LOSSES_OF
from pipeline.config.mistakes import Mistakes
from pipeline.config.settings import ROOT, Experiment
from pipeline.config.tuning import Parameter
from pipeline.tune.default_space import default_space, is_adaptive
from pipeline.tune.space import Axis, Space, searched
from pipeline.tune.space_checks import make_space
from pipeline.tune.study import distribution

SHIPPED = sorted((ROOT / "experiments").glob("*.yaml"))
METRICS = {"class": "macro_f1", "multilabel": "macro_f1", "ordinal": "quadratic_kappa", "regression": "rmse"}
N_ROWS = 2000


def space_of(path: Path, n_rows: int = N_ROWS) -> Space:
    """As the stage makes it, without the data."""
    base = load(path)[0]
    given = {key: tuple(map(Parameter.model_validate, several)) for key, several in default_space(base, n_rows).items()}
    return make_space(given, base, lambda changes: load(path, (), changes)[0])


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(target: str = "class", **sections) -> Path:
        competition = {"source": "csv", "name": "small", "root": "nowhere", "target": target, "metric": METRICS[target]}
        path = tmp_path / f"own-{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({"competition": competition, **sections}))
        return path

    return write


def at_random(rng: np.random.Generator) -> Callable[[Axis], object]:
    def suggest(axis: Axis):
        if axis.kind == "choice":
            return axis.encoded[rng.integers(len(axis.encoded))]
        if axis.step:
            return axis.low + axis.step * int(rng.integers(int((axis.high - axis.low) / axis.step + 1e-9) + 1))
        if axis.log:
            return float(np.exp(rng.uniform(np.log(axis.low), np.log(axis.high))))
        return float(rng.uniform(axis.low, axis.high))

    return suggest


def drawn(space: Space, n: int, seed: int = 0) -> list[tuple[dict, Experiment | None]]:
    """(raw, settings or None where they cannot work together)"""
    suggest = at_random(np.random.default_rng(seed))
    found = []
    for _ in range(n):
        raw = space.draw(suggest)
        try:
            found.append((raw, space.settings(raw)))
        except Mistakes:
            found.append((raw, None))
    return found


def check_is_whole(space: Space, n: int) -> float:
    """That the experiment itself lies inside and Optuna takes every range. The share of draws that can be trained."""
    own = space.point(space.base)
    assert own is not None
    assert searched(space.settings(own)) == searched(space.base)
    ranges = {axis.name: distribution(axis) for axis in space.axes}
    create_trial(value=0.0, params=own, distributions={name: ranges[name] for name in own})  # or it raises ValueError
    return float(np.mean([settings is not None for _, settings in drawn(space, n)])) if n else 1.0


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_experiment_lies_in_its_own_space(path):
    assert check_is_whole(space_of(path), 40) >= 0.9
    assert check_is_whole(space_of(path, 100), 0)


@pytest.mark.parametrize("target", METRICS)
def test_the_loss_is_one_for_the_target_whatever_the_experiment_says(write, target):
    for name in LOSSES_OF[target]:
        space = space_of(write(target, train={"loss": {"name": name}}))
        assert check_is_whole(space, 0)
        found = [settings for _, settings in drawn(space, 40)]
        assert sum(settings is not None for settings in found) >= 36
        losses = {settings.train.loss.name for settings in found if settings}
        assert name in losses <= set(LOSSES_OF[target]) and len(losses) >= 2


@pytest.mark.parametrize("target", METRICS)
def test_each_axis_changes_something(write, target):
    space = space_of(write(target, train={"epochs": 12}))
    found = drawn(space, 120)
    for axis in space.axes:
        values = {str(settings.flat()[axis.key]) if axis.key in settings.flat() else ""
                  for raw, settings in found if settings and axis.name in raw}  # fmt: skip
        assert len(values) >= 2 and "" not in values, axis.name
    keys = {axis.key for axis in space.axes}
    assert {"train.loss.name", "train.lr", "train.optimizer.weight_decay", "train.schedule.name", "augment.preset",
            "train.schedule.warmup_epochs", "train.accumulation"} <= keys  # fmt: skip
    assert ("train.loss.label_smoothing" in keys) == (target != "regression")


SCHEDULES = [
    {"name": "constant"},
    {"name": "cosine", "warmup_epochs": 0.3, "final": 0.05},
    {"name": "step", "step_size": 3, "gamma": 0.25},
    {"name": "step"},
    {"name": "multistep", "milestones": [1, 2]},
    {"name": "plateau", "patience": 5, "factor": 0.7},
    {"name": "plateau", "patience": 0},
    {"name": "onecycle", "rise": 0.2},
    {"name": "polynomial", "power": 0.9, "warmup_epochs": 0.5},
]


def test_any_number_of_epochs_has_a_space_that_trains(write):
    for epochs in range(1, 31):
        space = space_of(write(train={"epochs": epochs, "schedule": {"warmup_epochs": epochs / 3}}))
        assert check_is_whole(space, 10) >= 0.9, epochs


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: "-".join(map(str, schedule.values())))
def test_any_schedule_lies_in_its_own_space(write, schedule):
    for epochs in (1, 2, 4, 8, 30):
        space = space_of(write(train={"epochs": epochs, "schedule": schedule}))
        assert check_is_whole(space, 10) >= 0.9, epochs


def test_many_optimizers_of_timm_lie_in_their_own_spaces(write):
    for name in timm.optim.list_optimizers()[::3]:
        space = space_of(write(train={"optimizer": {"name": name}, "lr": 3e-3}))
        assert check_is_whole(space, 2) >= 0.9, name


VALUES = [
    {"train": {"loss": {"name": "focal", "gamma": 0.3}}},
    {"train": {"loss": {"name": "focal", "gamma": 3.2, "label_smoothing": 0.07}}},
    {"train": {"loss": {"name": "focal", "gamma": 0.0, "label_smoothing": 0.3}}},
    {"train": {"loss": {"name": "logit_adjustment", "tau": 0.1}}},
    {"train": {"loss": {"name": "logit_adjustment", "tau": 2.0}}},
    {"train": {"loss": {"name": "soft_f1"}}},
    {"train": {"optimizer": {"weight_decay": 0.0}}},
    {"train": {"optimizer": {"weight_decay": 2.0}}},
    {"train": {"optimizer": {"name": "sgd", "weight_decay": 1e-7}}},
    {"train": {"optimizer": {"weight_decay": 0.012345}}},
    {"train": {"lr": 1e-9}},
    {"train": {"lr": 1e-3 / 3}},
    {"train": {"batch_size": 100_000}},
    {"train": {"accumulation": 3, "batch_size": 7}},
    {"train": {"accumulation": 64}},
    {"augment": {"preset": "strong", "flip": 0.0, "crop_area": "off"}},
    {"augment": {"mixup": 0.2, "cutmix": 1.0}},
    {"train": {"class_weights": {"name": "inverse"}, "sampler": {"name": "balanced"}}},
]


@pytest.mark.parametrize("sections", VALUES, ids=str)
def test_unusual_values_lie_in_their_own_space(write, sections):
    assert check_is_whole(space_of(write(**sections)), 12) >= 0.9


@pytest.mark.parametrize("delta", [0.3, 0.75, 3.0])
def test_unusual_values_of_a_regression_lie_in_their_own_space(write, delta):
    path = write("regression", train={"loss": {"name": "huber", "delta": delta}})
    assert check_is_whole(space_of(path), 12) >= 0.9


def test_it_is_plain_data_that_could_stand_in_the_file(tmp_path):
    """Dumped under `tune.space` of the same experiment, it is the same space."""
    for path in (ROOT / "experiments/digits.yaml", ROOT / "experiments/mask.yaml"):
        own = space_of(path)
        copy = tmp_path / path.name
        sections = {"base": str(path), "tune": {"space": default_space(own.base, N_ROWS)}}
        copy.write_text(yaml.safe_dump(sections, sort_keys=False))
        settings = load(copy)[0]
        again = make_space(settings.tune.space, settings, lambda changes, copy=copy: load(copy, (), changes)[0])
        assert again.hash == own.hash


def test_ranges_are_around_the_experiments_own_values(write):
    space = space_of(write(train={"lr": 3e-3, "optimizer": {"weight_decay": 0.02}}))
    by_key = {axis.key: axis for axis in space.axes}
    lr, decay = by_key["train.lr"], by_key["train.optimizer.weight_decay"]
    assert (lr.low, lr.high, lr.log) == (pytest.approx(3e-4), pytest.approx(3e-2), True)
    assert decay.low <= 0.02 / 5 and decay.high >= 0.02 * 5 and decay.log


@pytest.mark.parametrize(("n_rows", "expected"), [(2000, (1, 2, 4)), (5000, (1, 2, 4, 8)), (330, ()), (640, (1, 2))])
def test_a_step_is_never_for_more_than_a_tenth_of_the_rows_but_by_the_experiments_own_word(write, n_rows, expected):
    axes = {axis.key: axis for axis in space_of(write(), n_rows).axes}  # 32 images in one forward pass
    assert (axes["train.accumulation"].choices if expected else ()) == expected
    assert ("train.accumulation" in axes) == bool(expected)
    own = {axis.key: axis for axis in space_of(write(train={"accumulation": 64}), 640).axes}
    assert own["train.accumulation"].choices == (1, 2, 64)


SGD = ["sgd", "momentum", "nesterov", "nesterovw", "sgdw", "sgdp", "fusedsgd"]
DIVIDED = [  # by the root of a running mean of squares, or by the sign alone
    "adam", "adamw", "nadamw", "radam", "lamb", "lion", "rmsprop", "rmsproptf", "adan", "adopt", "laprop", "novograd",
    "adagrad", "adadelta", "adafactor", "adafactorbv", "adabelief", "radabelief", "adahessian", "adamax",
]  # fmt: skip


def test_the_rate_grows_with_the_batch_by_the_rule_of_its_optimizer(write):
    wrong = [name for name in SGD if is_adaptive(name)] + [name for name in DIVIDED if not is_adaptive(name)]
    assert wrong == []
    for name, rule in (("sgd", "linear"), ("adamw", "sqrt")):
        axes = {axis.key: axis for axis in space_of(write(train={"optimizer": {"name": name}})).axes}
        assert axes["train.lr"].per_batch == rule


@pytest.mark.parametrize("heads", ["joint", "parts"])
def test_label_bounds_move_for_the_rows_trained_on_alone(tmp_path, heads):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"base": str(ROOT / "experiments/mask.yaml"), "model": {"heads": heads}}))
    space = space_of(path)
    assert check_is_whole(space, 0)
    seen = set()
    for _, settings in drawn(space, 60):
        if settings is None:
            continue
        assert settings.competition == space.base.competition
        assert check_label_bounds(settings.competition, settings.train.label_bounds) == []
        seen.add(settings.train.label_bounds.get("age"))
        assert heads == "joint" or settings.train.loss.name not in ("bce", "corn")
    assert seen == {None, (30, 59), (30, 58), (30, 57)}


def test_what_the_experiment_says_of_single_augmentations_goes_on_to_hold(write):
    space = space_of(write(augment={"flip": 0.0, "rotate_deg": 3.0}))
    augmented = [settings.augment for _, settings in drawn(space, 40) if settings]
    assert {augment.preset for augment in augmented} == {"off", "light", "medium", "strong"}
    assert {(augment.flip, augment.rotate_deg) for augment in augmented} == {(0.0, 3.0)}
    assert len({augment.crop_area for augment in augmented}) == 4

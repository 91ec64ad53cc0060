"""Spaces: what is wrong with one is told whole and at once, and each drawn point means what the settings say it does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.config.load import load
from pipeline.config.mistakes import Mistakes
from pipeline.config.settings import Experiment
from pipeline.config.tuning import Parameter
from pipeline.tune.space import Axis, Space, searched
from pipeline.tune.space_checks import make_space
from pipeline.tune.study import distribution

COMPETITION = {"source": "csv", "name": "small", "root": "nowhere"}
FOCAL = {"train.loss.name": "focal"}
LOSSES = {"choices": ["cross_entropy", "focal"]}
SCHEDULES = {"choices": ["cosine", "step"]}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """An experiment's file, a new one each time; keyword arguments are its sections."""

    def write(**sections) -> Path:
        path = tmp_path / f"own-{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump({"competition": COMPETITION, **sections}))
        return path

    return write


@pytest.fixture
def make(write) -> Callable[..., Space]:
    """The space of plain data, from an experiment of which keyword arguments are the sections."""

    def make(given: dict, **sections) -> Space:
        path = write(**sections)
        parameters = {
            key: tuple(Parameter.model_validate(each) for each in (value if isinstance(value, list) else [value]))
            for key, value in given.items()
        }
        return make_space(parameters, load(path)[0], lambda changes: load(path, (), changes)[0])

    return make


def at_random(rng: np.random.Generator) -> Callable[[Axis], object]:
    """Draws from axes without Optuna."""

    def suggest(axis: Axis):
        if axis.kind == "choice":
            return axis.encoded[rng.integers(len(axis.encoded))]
        if axis.step:
            n_steps = int((axis.high - axis.low) / axis.step + 1e-9)
            value = axis.low + axis.step * int(rng.integers(n_steps + 1))
        elif axis.log:
            value = float(np.exp(rng.uniform(np.log(axis.low), np.log(axis.high))))
        else:
            value = float(rng.uniform(axis.low, axis.high))
        return round(value) if axis.kind == "int" else value

    return suggest


def stands(settings: Experiment, key: str):
    """What the settings themselves have at a dotted key; None where they have none."""
    value = settings.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


# --- what is wrong with a space --------------------------------------------------------------------------------------

RANGE = {"low": 0.1, "high": 0.5}
WRONG = [
    ({"train.lrr": RANGE}, ["tune.space.train.lrr", "unknown key", "did you mean 'lr'?", "batch_size"]),
    ({"train.loss.gama": RANGE}, ["tune.space.train.loss.gama", "did you mean 'gamma'?"]),
    ({"trian.lr": RANGE}, ["unknown key", "did you mean 'train'?", "images, model, augment, train"]),
    ({"train.lr.peak": RANGE}, ["tune.space.train.lr.peak", "unknown key"]),
    ({"folds.k": {"low": 2, "high": 5}}, ["tune.space.folds.k", "may not vary", "images, model, augment, train"]),
    ({"eda.seed": {"low": 2, "high": 5}}, ["tune.space.eda.seed", "may not vary"]),
    ({"competition.metric": {"choices": ["accuracy"]}}, ["tune.space.competition.metric", "may not vary"]),
    ({"tune.trials": {"low": 2, "high": 5}}, ["tune.space.tune.trials", "may not vary"]),
    ({"train.seeds": {"choices": [[0], [1]]}}, ["tune.space.train.seeds", "may not vary", "fresh ones"]),
    ({"train.device": {"choices": ["cpu", "auto"]}}, ["tune.space.train.device", "may not vary"]),
    ({"train.loss.name": {"choices": ["focl", "focal"]}}, ["tune.space.train.loss.name", "focl", "'focal'"]),
    ({"train.loss": {"choices": [{"name": "focal", "tau": 1.0}]}}, ["tune.space.train.loss", "refused", "tau"]),
    ({"train.loss": RANGE}, ["tune.space.train.loss", "0.1", "section"]),
    ({"augment.preset": RANGE}, ["tune.space.augment.preset", "'off', 'light', 'medium' or 'strong'"]),
    ({"model.drop_rate": {"low": 0.0, "high": 1.5}}, ["tune.space.model.drop_rate", "1.5 is refused", "less than 1"]),
    ({"train.batch_size": {"low": 0, "high": 8}}, ["tune.space.train.batch_size", "0 is refused"]),
    ({"train.loss.name": {"choices": ["mse", "focal"]}}, ["mse", "competition.target=class"]),
    ({"train.epochs": {"low": 2.5, "high": 8}}, ["tune.space.train.epochs", "a fraction", "whole numbers"]),
    ({"train.epochs": {"low": 2, "high": 8, "step": 1.5}}, ["tune.space.train.epochs", "a fraction"]),
    ({"model.drop_rate": {**RANGE, "per_batch": "sqrt"}}, ["tune.space.model.drop_rate", "per_batch", "train.lr"]),
    ({"model.drop_rate": {**RANGE, "when": {"train.loss.nam": "focal"}}},
     ["model.drop_rate.when", "unknown key train.loss.nam", "did you mean 'train.loss.name'?"]),
    ({"model.drop_rate": {**RANGE, "when": FOCAL}}, ["model.drop_rate.when", "train.loss.name=focal never holds"]),
    ({"train.loss.name": LOSSES, "model.drop_rate": {**RANGE, "when": {"train.loss.name": ["bce", "corn"]}}},
     ["train.loss.name=bce|corn never holds", "cross_entropy, focal"]),
    ({"train.lr": {"low": 1e-4, "high": 1e-2}, "model.drop_rate": {**RANGE, "when": {"train.lr": 1e-3}}},
     ["model.drop_rate.when", "train.lr is a range"]),
    ({"train.loss.name": {**LOSSES, "when": {"train.schedule.name": "step"}},
      "train.schedule.name": {**SCHEDULES, "when": FOCAL}},
     ["circle", "train.loss.name", "train.schedule.name"]),
    ({"train.loss.name": {**LOSSES, "when": FOCAL}}, ["circle", "train.loss.name"]),
    ({"train": {"choices": [{"seeds": [1]}, {"seeds": [2]}]}}, ["tune.space.train", "seeds", "may not vary"]),
    ({"train.lr": [RANGE, {"low": 0.2, "high": 0.9}]}, ["tune.space.train.lr"]),  # which of the two is meant?
    ({"train.loss.name": LOSSES, "train.lr": [{**RANGE, "when": FOCAL}, {"low": 0.2, "high": 0.9, "when": FOCAL}]},
     ["tune.space.train.lr"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "told"), WRONG, ids=[next(iter(given)) + f" {i}" for i, (given, _) in enumerate(WRONG)]
)
def test_what_is_wrong_is_told_with_what_is_valid(make, given, told):
    with pytest.raises(Mistakes) as caught:
        make(given)
    for words in told:
        assert words in str(caught.value)


def test_all_mistakes_come_at_once(make):
    """One of each kind in one space, beside a range that is right and is not named."""
    space = {
        "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "train.lrr": RANGE,
        "train.loss.tua": RANGE,
        "folds.k": {"low": 2, "high": 5},
        "train.seeds": {"choices": [[0], [1]]},
        "train.epochs": {"low": 2.5, "high": 8},
        "augment.flip": {**RANGE, "when": {"augment.presett": "off"}},
        "augment.erase": {**RANGE, "when": {"augment.preset": "strong"}},
        "train.loss.name": {**LOSSES, "when": {"train.schedule.name": "step"}},
        "train.schedule.name": {**SCHEDULES, "when": FOCAL},
    }
    with pytest.raises(Mistakes) as caught:
        make(space)
    text = str(caught.value)
    told = ("lrr", "tua", "folds.k", "train.seeds", "a fraction", "presett", "strong never holds", "circle")
    assert [word for word in told if word not in text] == [] and "space.train.lr:" not in text


def test_refused_values_are_told_beside_the_others(make):
    with pytest.raises(Mistakes) as caught:
        make({"train.lrr": RANGE, "augment.preset": {"choices": ["lihgt", "off"]}, "augment.flip": {"low": -1, "high": 1},
              "train.loss.name": {"choices": ["focl", "corm"]}})  # fmt: skip
    text = str(caught.value)
    told = ("lrr", "lihgt", "-1 is refused", "focl", "corm")
    assert [word for word in told if word not in text] == []


def test_ranges_that_are_none_are_told_all_at_once_when_the_file_is_read(write):
    space = {
        "train.lr": {"low": 1e-2, "high": 1e-4},
        "train.epochs": {"low": 3, "high": 3},
        "augment.flip": {"low": 0, "high": 1, "log": True},
        "augment.erase": {"low": 0, "high": 0.5, "step": 0.7},
        "augment.blur": {"low": 0.1},
        "augment.grey": {"choices": [0.1, 0.2], "low": 0.1},
        "augment.hue": {"choices": [0.1, 0.1]},
        "augment.contrast": {"low": 0.1, "high": 0.2, "log": True, "step": 0.05},
        "augment.shear": {"low": 0.1, "high": 0.2, "stepp": 0.05},
    }
    with pytest.raises(Mistakes) as caught:
        load(write(tune={"space": space}))
    text = str(caught.value)
    told = ["from 0.01 to 0.0001 is empty", "from 3 to 3 is empty", "low 0 must be above 0", "step 0.7 is wider",
            "it needs low and high, or choices", "choices and low do not go together", "name one twice",
            "log and step do not go together", "unknown key, did you mean 'step'?"]  # fmt: skip
    assert [words for words in told if words not in text] == []
    assert [key for key in space if key not in text] == [] and len(caught.value.mistakes) == len(space)


def test_a_search_that_would_never_end_is_refused(write):
    with pytest.raises(Mistakes, match="never end"):
        load(write(tune={"trials": "off"}))
    assert load(write(tune={"trials": "off", "hours": 0.5}))[0].tune.hours == 0.5


def test_settings_with_a_space_survive_being_written_and_read(write):
    """As they are handed to a worker process, and kept beside each trial."""
    space = {"train.loss.name": LOSSES, "train.lr": {"low": 1e-4, "high": 1e-2, "log": True, "per_batch": "sqrt"},
             "augment.crop_area": {"choices": ["off", [0.5, 1.0]], "when": FOCAL}}  # fmt: skip
    settings = load(write(tune={"space": space}))[0]
    again = Experiment.model_validate(settings.model_dump(mode="json"))
    assert again.fingerprint == settings.fingerprint


def test_numbers_are_compared_as_numbers(make):
    """`when: {augment.mixup: 0}` is the default, 0.0."""
    space = make({"augment.flip": {**RANGE, "when": {"augment.mixup": 0}}})
    assert set(space.draw(at_random(np.random.default_rng(0)))) == {"augment.flip"}


# --- drawing ---------------------------------------------------------------------------------------------------------

RICH = {
    "train.loss.gamma": {"low": 0.5, "high": 3.0, "step": 0.5, "when": FOCAL},
    "train.loss.name": {"choices": ["cross_entropy", "focal", "generalized_cross_entropy"]},
    "train.loss.label_smoothing": {"low": 0.0, "high": 0.2, "when": {"train.loss.name": ["cross_entropy", "focal"]}},
    "train.schedule.step_size": {"low": 1, "high": 4, "when": {"train.schedule.name": "step"}},
    "train.schedule.name": SCHEDULES,
    "train.lr": [
        {
            "low": 1e-4,
            "high": 1e-2,
            "log": True,
            "per_batch": "sqrt",
            "when": {"train.optimizer.name": ["adamw", "lion"]},
        },
        {"low": 1e-2, "high": 1.0, "log": True, "per_batch": "linear", "when": {"train.optimizer.name": "sgd"}},
    ],
    "train.optimizer.name": {"choices": ["adamw", "lion", "sgd"]},
    "train.optimizer.weight_decay": {"low": 1e-3, "high": 0.3, "log": True},
    "train.batch_size": {"low": 8, "high": 64, "step": 8},
    "train.accumulation": {"choices": [1, 2, 4]},
    "train.epochs": {"low": 4, "high": 64, "log": True},
    "augment.crop_area": {"choices": ["off", [0.35, 1.0], [0.5, 1.0]]},
    "train.class_weights": {"choices": [{"name": "none"}, {"name": "inverse", "power": 0.5}, {"name": "inverse"}]},
    "train.channels_last": {"choices": [True, False, "auto"]},
}


def test_what_is_drawn_is_what_has_a_meaning_and_what_the_settings_then_say(make):
    space = make(RICH)
    suggest = at_random(np.random.default_rng(0))
    seen = {axis.name: set() for axis in space.axes}
    for _ in range(150):
        raw = space.draw(suggest)
        settings = space.settings(raw)
        for axis in space.axes:
            is_meant = all(stands(settings, key) in values for key, values in axis.when)
            assert (axis.name in raw) == is_meant, axis.name
            if not is_meant:
                continue
            value = stands(settings, axis.key)
            seen[axis.name].add(repr(value))
            if axis.kind == "choice":
                choice = axis.choices[axis.encoded.index(raw[axis.name])]
                inside = isinstance(choice, dict) and choice.items() <= value.items()
                assert inside or (value == choice and type(value) is type(choice))
            elif axis.per_batch == "off":
                assert axis.low <= value <= axis.high and value == pytest.approx(raw[axis.name], rel=1e-3)
            if axis.kind == "int":
                assert type(value) is int
    assert seen["train.loss.gamma"] == {"0.5", "1.0", "1.5", "2.0", "2.5", "3.0"}
    assert seen["train.batch_size"] == {str(n) for n in range(8, 65, 8)}
    assert seen["train.loss.name"] == {"'cross_entropy'", "'focal'", "'generalized_cross_entropy'"}
    assert len(seen["augment.crop_area"]) == len(seen["train.class_weights"]) == len(seen["train.channels_last"]) == 3


def test_each_point_is_found_again_in_its_settings(make):
    space = make(RICH)
    suggest = at_random(np.random.default_rng(1))
    for _ in range(150):
        raw = space.draw(suggest)
        settings = space.settings(raw)
        again = space.point(settings)
        assert again is not None and set(again) == set(raw)
        assert searched(space.settings(again)) == searched(settings)
        for axis in space.axes:
            if axis.name in raw and axis.kind != "choice":
                assert again[axis.name] == pytest.approx(raw[axis.name], rel=2e-3)
                assert axis.low <= again[axis.name] <= axis.high


def test_a_condition_on_what_another_choice_takes_away_does_not_hold(make):
    """The experiment's own gamma is 2, but a cross entropy has none."""
    space = make(
        {"train.loss.name": LOSSES, "train.loss.gamma": {"choices": [1.0, 2.0], "when": FOCAL},
         "augment.mixup": {**RANGE, "when": {"train.loss.gamma": 2.0}}},
        train={"loss": {"name": "focal", "gamma": 2.0}},
    )  # fmt: skip
    suggest = at_random(np.random.default_rng(2))
    drawn = {frozenset(raw.items() - {("augment.mixup", raw.get("augment.mixup"))}): "augment.mixup" in raw
             for raw in (space.draw(suggest) for _ in range(40))}  # fmt: skip
    assert drawn == {
        frozenset({("train.loss.name", "cross_entropy")}): False,
        frozenset({("train.loss.name", "focal"), ("train.loss.gamma", 1.0)}): False,
        frozenset({("train.loss.name", "focal"), ("train.loss.gamma", 2.0)}): True,
    }


def test_a_condition_on_what_another_choice_brings_holds(make):
    """A step has no warm-up by default, as little as the experiment's own cosine."""
    space = make(
        {"train.schedule.name": SCHEDULES, "augment.mixup": {**RANGE, "when": {"train.schedule.warmup_epochs": 0.0}}}
    )
    suggest = at_random(np.random.default_rng(2))
    for _ in range(10):
        raw = space.draw(suggest)
        assert space.settings(raw).train.schedule.warmup_epochs == 0 and "augment.mixup" in raw


def test_log_ranges_are_uniform_in_the_logarithm_and_keep_four_digits(make):
    space = make({"train.lr": {"low": 1e-5, "high": 1e-1, "log": True}})
    suggest = at_random(np.random.default_rng(3))
    for _ in range(50):
        raw = space.draw(suggest)
        value = stands(space.settings(raw), "train.lr")
        assert value == float(f"{raw['train.lr']:.3e}")
    [axis] = space.axes
    of = distribution(axis)
    assert (of.low, of.high, of.log) == (1e-5, 1e-1, True)


@pytest.mark.parametrize(
    ("key", "parameter"),
    [
        ("augment.flip", {"low": 0.1, "high": 1.0, "step": 0.4}),
        ("train.batch_size", {"low": 1, "high": 10, "step": 4}),
    ],
)
def test_a_step_that_misses_the_end_of_its_range_is_refused_or_drawn_in_silence(make, key, parameter):
    """Optuna would warn, and pytest makes an error of that."""
    try:
        space = make({key: parameter})
    except Mistakes as error:
        assert "step" in str(error)
        return
    [axis] = space.axes
    assert parameter["low"] <= distribution(axis).high <= parameter["high"]


# --- the experiment's own point, and others' -------------------------------------------------------------------------


def test_what_the_space_does_not_hold_is_no_point_of_it(make, write):
    space = make({"train.lr": {"low": 1e-4, "high": 1e-2}, "train.loss.name": LOSSES, "train.loss.gamma":
                  {"low": 1.0, "high": 2.0, "step": 0.5, "when": FOCAL}, "train.batch_size": {"low": 8, "high": 32},
                  "augment.crop_area": {"choices": ["off", [0.5, 1.0]]}})  # fmt: skip

    def other(**sections):
        return space.point(load(write(**sections))[0])

    assert other() == {"train.lr": 1e-3, "train.loss.name": "cross_entropy", "train.batch_size": 32,
                       "augment.crop_area": "off"}  # fmt: skip
    focal = {"name": "focal", "gamma": 1.5}
    held = other(train={"loss": focal, "batch_size": 9}, augment={"crop_area": [0.5, 1.0]})
    assert held == {"train.lr": 1e-3, "train.loss.name": "focal", "train.loss.gamma": 1.5, "train.batch_size": 9,
                    "augment.crop_area": "[0.5, 1.0]"}  # fmt: skip
    for outside in (
        {"train": {"lr": 0.02}},
        {"train": {"lr": 9e-5}},
        {"train": {"batch_size": 33}},
        {"train": {"loss": {"name": "bce"}}},
        {"train": {"loss": {**focal, "gamma": 1.6}}},
        {"train": {"loss": {**focal, "gamma": 2.5}}},
        {"train": {"loss": {**focal, "label_smoothing": 0.1}}},
        {"train": {"epochs": 3}},
        {"augment": {"crop_area": [0.4, 1.0]}},
        {"model": {"drop_rate": 0.1}},
    ):
        assert other(**outside) is None, outside


def test_what_no_axis_touches_is_no_matter(make, write):
    space = make({"train.lr": {"low": 1e-4, "high": 1e-2}})
    assert space.point(load(write(folds={"k": 3}, tune={"trials": 5}))[0]) == {"train.lr": 1e-3}


def test_of_sections_the_one_that_says_most_is_meant(make, write):
    schedules = [{"name": "cosine"}, {"name": "cosine", "warmup_epochs": 0.5}, {"name": "step", "step_size": 3}]
    space = make({"train.schedule": {"choices": schedules}})
    [axis] = space.axes
    for choice, name in zip(schedules, axis.encoded, strict=True):
        settings = space.settings({axis.name: name})
        assert stands(settings, "train.schedule").items() >= choice.items()
        assert space.point(settings) == {axis.name: name}
    other = load(write(train={"schedule": {"name": "cosine", "final": 0.1}}))[0]
    assert space.point(other) is None


def test_other_choices_keep_nothing_of_a_section_that_they_replace(make):
    """A cosine's `final` and a focal loss's `gamma` would be unknown keys of a step and a cross entropy."""
    space = make({"train.loss.name": LOSSES, "train.schedule.name": SCHEDULES},
                 train={"loss": {"name": "focal", "gamma": 3.0}, "schedule": {"name": "cosine", "final": 0.1}})  # fmt: skip
    other = space.settings({"train.loss.name": "cross_entropy", "train.schedule.name": "step"})
    assert other.train.loss.name == "cross_entropy" and other.train.schedule.name == "step"
    own = space.point(space.base)
    assert own == {"train.loss.name": "focal", "train.schedule.name": "cosine"}
    assert searched(space.settings(own)) == searched(space.base)


BATCHES = {"train.batch_size": {"choices": [16, 32, 48, 64]}, "train.accumulation": {"choices": [1, 2, 3, 4]}}


@pytest.mark.parametrize(("rule", "power"), [("sqrt", 0.5), ("linear", 1.0)])
def test_the_rate_follows_the_effective_batch(make, rule, power):
    """Raw rates are those of the experiment's own effective batch, 48 x 2 images."""
    lr = {"low": 1e-4, "high": 1e-2, "log": True, "per_batch": rule}
    space = make({"train.lr": lr, **BATCHES}, train={"batch_size": 48, "accumulation": 2, "lr": 2e-3})
    suggest = at_random(np.random.default_rng(4))
    batches = set()
    for _ in range(60):
        raw = space.draw(suggest)
        train = space.settings(raw).train
        batch = raw["train.batch_size"] * raw["train.accumulation"]
        batches.add(batch)
        assert (train.batch_size, train.accumulation) == (raw["train.batch_size"], raw["train.accumulation"])
        assert train.lr == pytest.approx(raw["train.lr"] * (batch / 96) ** power, rel=1e-3)
    assert {16, 96, 256} <= batches
    small = space.settings({"train.lr": 2e-3, "train.batch_size": 16, "train.accumulation": 1}).train.lr
    assert small == pytest.approx({"sqrt": 2e-3 / 6**0.5, "linear": 2e-3 / 6}[rule], rel=1e-3)


@pytest.mark.parametrize("rule", ["off", "sqrt", "linear"])
@pytest.mark.parametrize("lr", [1e-3, 3e-3, 2.345e-4, 0.1, 0.00012345, 1e-3 / 3])
def test_the_experiments_own_point_is_itself(make, lr, rule):
    lrs = {"low": lr / 10, "high": lr * 10, "log": True, "per_batch": rule}
    space = make({"train.lr": lrs, **BATCHES}, train={"batch_size": 48, "accumulation": 3, "lr": lr})
    own = space.point(space.base)
    assert own is not None and own["train.lr"] == pytest.approx(lr, rel=1e-12)
    assert searched(space.settings(own)) == searched(space.base)


def test_several_ranges_of_a_key_are_axes_of_their_own(make):
    space = make(RICH)
    rates = [axis for axis in space.axes if axis.key == "train.lr"]
    assert len({axis.name for axis in rates}) == 2
    suggest = at_random(np.random.default_rng(5))
    for _ in range(60):
        raw = space.draw(suggest)
        [axis] = [axis for axis in rates if axis.name in raw]
        is_sgd = raw["train.optimizer.name"] == "sgd"
        assert axis.per_batch == ("linear" if is_sgd else "sqrt") and (raw[axis.name] >= 1e-2) == is_sgd


def test_conditions_are_drawn_after_what_they_are_on_however_the_keys_stand(make):
    turned = dict(reversed(RICH.items()))
    for given in (RICH, turned):
        place = {axis.key: i for i, axis in enumerate(make(given).axes)}
        for key, on in (("train.loss.gamma", "train.loss.name"), ("train.schedule.step_size", "train.schedule.name"),
                        ("train.loss.label_smoothing", "train.loss.name"), ("train.lr", "train.optimizer.name")):  # fmt: skip
            assert place[on] < place[key]


def test_a_value_within_a_section_is_kept_beside_another_kind_of_it(make):
    """Without `when`, and before the key that replaces the section: every kind has a warm-up of its own."""
    space = make({"train.schedule.warmup_epochs": {"low": 1, "high": 2}, "train.schedule.name": SCHEDULES})
    suggest = at_random(np.random.default_rng(6))
    names = set()
    for _ in range(10):
        raw = space.draw(suggest)
        schedule = space.settings(raw).train.schedule
        assert schedule.warmup_epochs == pytest.approx(raw["train.schedule.warmup_epochs"], rel=1e-3)
        names.add(schedule.name)
    assert names == {"cosine", "step"}


def test_spaces_are_told_apart_by_their_hash(make):
    lr = {"low": 1e-4, "high": 1e-2, "log": True}
    space = {"train.lr": lr, "train.loss.name": LOSSES, "train.loss.gamma": {"low": 1.0, "high": 2.0, "when": FOCAL}}
    own = make(space).hash
    assert make(space, model={"drop_rate": 0.1}).hash == own
    others = [
        space | {"train.lr": {**lr, "high": 2e-2}},
        space | {"train.lr": {**lr, "log": False}},
        space | {"train.lr": {**lr, "per_batch": "sqrt"}},
        space | {"train.loss.name": {"choices": ["cross_entropy", "focal", "bce"]}},
        space | {"train.loss.gamma": {"low": 1.0, "high": 2.0, "step": 0.5, "when": FOCAL}},
        {key: value for key, value in space.items() if key != "train.lr"},
    ]
    assert len({own, *(make(other).hash for other in others)}) == 1 + len(others)

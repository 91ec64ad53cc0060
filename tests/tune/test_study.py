"""Studies: what they remember outlives any process, what they ask for is new and learnt, and older ones are heard."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from optuna.storages import BaseStorage

from pipeline.config.load import load
from pipeline.config.mistakes import Mistakes
from pipeline.config.tuning import Parameter, Prune, Tune
from pipeline.tune.prune import Trial
from pipeline.tune.space import Space, searched
from pipeline.tune.space_checks import make_space
from pipeline.tune.store import open_storage
from pipeline.tune.study import About, Study

ABOUT = About(name="own-1", context="data", sign=1, folds=(0, 1, 2), driver="here")
RATE = {"low": 1e-5, "high": 1e-1, "log": True}
LOSSES = {"choices": ["cross_entropy", "focal"]}
GAMMA = {"low": 0.5, "high": 3.0, "step": 0.5, "when": {"train.loss.name": "focal"}}
WIDE = {
    "train.lr": RATE,
    "augment.mixup": {"low": 0.0, "high": 1.0},
    "train.loss.name": LOSSES,
    "train.loss.gamma": GAMMA,
}
FEW = {"train.epochs": {"low": 8, "high": 11}}  # with the experiment's own 10, four points


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Space]:
    """The space of plain data, from an experiment of which keyword arguments are the sections."""

    def make(given: dict, **sections) -> Space:
        path = tmp_path / f"own-{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(
            yaml.safe_dump({"competition": {"source": "csv", "name": "small", "root": "nowhere"}, **sections})
        )
        parameters = {key: (Parameter.model_validate(each),) for key, each in given.items()}
        return make_space(parameters, load(path)[0], lambda changes: load(path, (), changes)[0])

    return make


@pytest.fixture
def journal(tmp_path: Path) -> Callable[[], BaseStorage]:
    """Opens the same file, each time as a new process would."""
    return lambda: open_storage("journal", tmp_path / "studies" / "tune.journal")


def data(trials: Sequence[Trial]) -> list[dict]:
    """All that is known of each, to be compared."""
    return [asdict(trial) for trial in trials]


def lead(trial: Trial) -> float:
    """How good a point of `WIDE` is: best at a rate of .01, mixup .3 and cross entropy; the worst about .5 below."""
    raw = trial.raw
    wrong_loss = 0.1 if raw["train.loss.name"] == "focal" else 0.0
    return 0.9 - 0.1 * abs(np.log10(raw["train.lr"]) + 2) - 0.2 * abs(raw.get("augment.mixup", 0.3) - 0.3) - wrong_loss


def step(study: Study, trial: Trial) -> None:
    """What comes of a trial, by its number: one in five fails, one in five is given up on its second fold."""
    sign, value = study.about.sign, lead(trial)
    first, second, third = trial.order
    curve = [sign * (value - 0.1), sign * value]
    if trial.number % 5 == 4:
        study.keep_curve(trial, first, curve[:1], 1.0, is_done=False)
        study.fail(trial, "it diverged")
        return
    study.keep_curve(trial, first, curve, 2.0, is_done=True)
    if trial.number % 5 == 3:
        study.keep_curve(trial, second, curve[:1], 1.0, is_done=False)
        study.prune(trial, f"fold {second}, epoch 1: behind")
        return
    for fold in (second, third):
        study.keep_curve(trial, fold, curve, 2.0, is_done=True)
    study.finish(trial, sign * value)


def played(study: Study, n: int) -> list[Trial]:
    for _ in range(n):
        trial = study.ask()
        assert trial is not None
        step(study, trial)
    return study.trials


# --- asking ----------------------------------------------------------------------------------------------------------


def test_the_first_trial_is_the_experiment_itself(make, journal):
    study = Study(journal(), make(WIDE), ABOUT, Tune())
    trial = study.ask()
    assert study.is_new and trial is not None
    assert (trial.number, trial.is_baseline, trial.changes) == (0, True, {})
    assert trial.raw == study.space.point(study.space.base) != {}
    assert trial.identity == searched(study.space.base) and trial is study.baseline
    assert sorted(trial.order) == [0, 1, 2]
    second = study.ask()
    assert second is not None and (second.number, second.is_baseline) == (1, False)
    assert second.identity == searched(study.space.settings(second.raw))


def test_an_experiment_outside_its_own_space_is_tried_first_all_the_same(make, journal):
    study = Study(journal(), make({"train.lr": {"low": 0.1, "high": 1.0}}), ABOUT, Tune())
    trial = study.ask()
    assert trial is not None and trial.is_baseline and trial.raw == {}
    assert trial.identity == searched(study.space.base)
    study.finish(trial, 0.5)
    other = study.ask()
    assert other is not None and other.raw["train.lr"] >= 0.1


@pytest.mark.parametrize("sign", [1, -1])
def test_nothing_in_memory_matters(make, journal, tmp_path, sign):
    """One process that does everything, and one that dies after every step, also between asking and what came of it."""
    about = replace(ABOUT, sign=sign)
    whole = Study(journal(), make(WIDE), about, Tune(startup=5))
    expected = played(whole, 12)

    def opened() -> Study:
        return Study(open_storage("journal", tmp_path / "other.journal"), make(WIDE), about, Tune(startup=5))

    for i in range(12):
        asked = opened().ask()
        assert asked is not None and asked.number == i
        study = opened()
        [again] = study.running()
        assert data([again]) == data([asked])
        step(study, again)
    got = opened()
    assert not got.is_new
    assert data(got.trials) == data(expected) == data(Study(journal(), make(WIDE), about, Tune(startup=5)).trials)
    assert {trial.state for trial in expected} == {"finished", "pruned", "failed"}


def test_seeds_are_other_searches_and_the_same_seed_the_same(make, tmp_path):
    def points(seed: int, name: str) -> list[dict]:
        study = Study(open_storage("journal", tmp_path / name), make(WIDE), ABOUT, Tune(seed=seed))
        return [trial.raw for trial in played(study, 6)][1:]

    assert points(0, "a") == points(0, "b") != points(1, "c")


def test_trials_train_their_folds_in_orders_of_their_own(make, journal):
    study = Study(journal(), make(WIDE), replace(ABOUT, folds=(0, 1, 2, 3, 4)), Tune())
    orders = [study.ask().order for _ in range(12)]  # ty: ignore[unresolved-attribute]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders) and len({order[0] for order in orders}) >= 3


def test_no_setting_is_asked_twice_and_a_small_space_ends(make, tmp_path):
    spaces = [
        (FEW, {8, 9, 10, 11}),
        ({**FEW, "augment.preset": {"choices": ["off", "light"]}}, {8, 9, 10, 11}),
        ({"train.epochs": {"choices": [10]}}, {10}),
    ]
    for i, (given, epochs) in enumerate(spaces):
        n_points = len(epochs) * (2 if "augment.preset" in given else 1)
        for seed in range(2):
            study = Study(
                open_storage("journal", tmp_path / f"{i}-{seed}"), make(given), ABOUT, Tune(seed=seed, startup=3)
            )
            asked = []
            while (trial := study.ask()) is not None:
                asked.append(trial)
                study.finish(trial, float(trial.n_epochs))
                assert len(asked) <= n_points
            assert len({trial.identity for trial in asked}) == len(asked) == n_points
            assert {trial.n_epochs for trial in asked} == epochs
            assert study.ask() is None


def test_a_small_space_ends_for_trials_that_are_all_still_running(make, journal):
    study = Study(journal(), make(FEW), ABOUT, Tune())
    asked = [study.ask() for _ in range(6)]
    assert [trial is None for trial in asked] == [False] * 4 + [True] * 2


def test_values_that_cannot_work_together_are_never_asked_for(make, journal):
    """A warm-up of 3 epochs leaves nothing of 2 or 3: two of the nine points."""
    space = make({"train.epochs": {"choices": [2, 3, 4]}, "train.schedule.warmup_epochs": {"choices": [0.0, 1.0, 3.0]}},
                 train={"epochs": 4})  # fmt: skip
    study = Study(journal(), space, ABOUT, Tune())
    asked = set()
    while (trial := study.ask()) is not None:
        asked.add((trial.raw["train.epochs"], trial.raw["train.schedule.warmup_epochs"]))
        study.finish(trial, 0.5)
        assert len(study.trials) <= 9
    assert asked == {(2, 0.0), (2, 1.0), (3, 0.0), (3, 1.0), (4, 0.0), (4, 1.0), (4, 3.0)}


# --- learning --------------------------------------------------------------------------------------------------------


def test_it_learns_where_scores_are_good_and_as_well_where_less_is_better(make, tmp_path):
    space, gains = make(WIDE), []
    for seed in range(3):
        points = {}
        for sign in (1, -1)[: 1 + (seed == 0)]:
            study = Study(
                open_storage("journal", tmp_path / f"{seed}{sign}"), space, replace(ABOUT, sign=sign), Tune(seed=seed)
            )
            for _ in range(41):
                trial = study.ask()
                study.finish(trial, sign * lead(trial))
            points[sign] = [trial.raw for trial in study.trials]
            leads = [lead(trial) for trial in study.trials]
            assert study.best is max(study.trials, key=lead)
        assert points[1] == points.get(-1, points[1])  # the same scores with their signs turned
        gains.append(np.mean(leads[20:]) - np.mean(leads[1:11]))
    assert min(gains) > 0.04 and np.mean(gains) > 0.08  # of the .1 to .2 that are to be had


def test_trials_given_up_early_teach_as_well(make, journal):
    """All but the best so far are given up after the first epoch of a fold."""
    study = Study(journal(), make(WIDE), ABOUT, Tune())
    leads = []
    for _ in range(41):
        trial = study.ask()
        value = lead(trial)
        leads.append(value)
        if study.best is not None and value < study.best.value:
            study.keep_curve(trial, trial.order[0], [value - 0.3], 1.0, is_done=False)
            study.prune(trial, "behind")
            continue
        for fold in trial.order:
            study.keep_curve(trial, fold, [value - 0.3, value], 1.0, is_done=True)
        study.finish(trial, value)
    assert sum(trial.state == "pruned" for trial in study.trials) > 20
    assert np.mean(leads[20:]) - np.mean(leads[1:11]) > 0.08


@pytest.mark.parametrize("sign", [1, -1])
def test_where_trials_fail_it_goes_seldom(make, journal, sign):
    """Above a rate of .003, three of eight at random: to fail is worse than any score and any loss."""
    study = Study(journal(), make({"train.lr": RATE}), replace(ABOUT, sign=sign), Tune(seed=1))
    for _ in range(36):
        trial = study.ask()
        rate = np.log10(trial.raw["train.lr"])
        if rate > -2.5:
            study.fail(trial, "it diverged")
        else:
            study.finish(trial, 0.5 - sign * 0.1 * abs(rate + 4))
    failed = [trial.state == "failed" for trial in study.trials]
    assert sum(failed[1:11]) >= 2 and sum(failed[11:]) <= 3


# --- what is remembered ----------------------------------------------------------------------------------------------


def test_a_trial_that_was_running_is_gone_on_with(make, journal):
    study = Study(journal(), make(WIDE), ABOUT, Tune())
    played(study, 3)
    trial = study.ask()
    first, second, third = trial.order
    study.keep_curve(trial, first, [0.25, 0.5], 3.5, is_done=True)
    study.keep_curve(trial, second, [0.125], 1.25, is_done=False)
    beside = study.ask()
    again = Study(journal(), make(WIDE), ABOUT, Tune())
    assert data(again.running()) == data([trial, beside])
    found = again.running()[0]
    assert (found.curves, found.done) == ({first: [0.25, 0.5], second: [0.125]}, {first})
    assert list(found.curves) == [first, second] and found.seconds == 4.75 and found.n_trained == 3
    assert found.order == (first, second, third) and (found.state, found.value, found.why) == ("running", None, "")
    again.keep_curve(found, second, [0.125, 0.625], 2.0, is_done=True)
    again.keep_curve(found, third, [0.25, 0.75], 2.0, is_done=True)
    again.finish(found, 0.7)
    last = Study(journal(), make(WIDE), ABOUT, Tune())
    assert data(last.running()) == data([beside])
    done = last.trials[trial.number]
    assert (done.state, done.value, done.done) == ("finished", 0.7, {0, 1, 2})
    assert done.curves == {first: [0.25, 0.5], second: [0.125, 0.625], third: [0.25, 0.75]}


def test_finished_pruned_and_failed_are_told_apart(make, journal):
    study = Study(journal(), make(WIDE), ABOUT, Tune())
    for end in (
        lambda trial: study.finish(trial, 0.8),
        lambda trial: study.prune(trial, "fold 1, epoch 2: behind 3 of 4"),
        lambda trial: study.fail(trial, "fold 0: CUDA out of memory"),
        lambda trial: None,
    ):
        trial = study.ask()
        study.keep_curve(trial, trial.order[0], [0.5], 1.0, is_done=False)
        end(trial)
    for found in (study, Study(journal(), make(WIDE), ABOUT, Tune())):
        assert [(trial.state, trial.value, trial.why) for trial in found.trials] == [
            ("finished", 0.8, ""),
            ("pruned", None, "fold 1, epoch 2: behind 3 of 4"),
            ("failed", None, "fold 0: CUDA out of memory"),
            ("running", None, ""),
        ]
        assert found.best is found.baseline is found.trials[0] and found.n_own == 4


@pytest.mark.parametrize("damage", ["value", "line"])
def test_what_was_changed_in_the_journal_is_not_believed_from_there_on(make, journal, tmp_path, capsys, damage):
    study = Study(journal(), make(WIDE), ABOUT, Tune())
    for value in (0.5, 0.625, 0.75):
        study.finish(study.ask(), value)
    path = tmp_path / "studies" / "tune.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if b"0.625" in line)
    changed = [] if damage == "line" else [lines[at].replace(b"0.625", b"0.999")]
    path.write_bytes(b"".join([*lines[:at], *changed, *lines[at + 1 :]]))
    again = Study(journal(), make(WIDE), ABOUT, Tune())
    assert [trial.value for trial in again.trials] == [0.5, None] and again.trials[1].state == "running"
    assert "was changed" in capsys.readouterr().err and b"".join(lines).startswith(path.read_bytes()[:100])
    again.finish(again.trials[1], 0.625)
    assert [trial.value for trial in Study(journal(), make(WIDE), ABOUT, Tune()).trials] == [0.5, 0.625]


def test_notes_of_the_whole_study_are_kept(make, journal):
    Study(journal(), make(FEW), ABOUT, Tune()).note("driver there", 12.5)
    study = Study(journal(), make(FEW), ABOUT, Tune())
    assert study.noted()["driver there"] == 12.5 and study.trials == []


@pytest.mark.parametrize("sign", [1, -1])
def test_trials_behind_are_given_up_and_the_experiment_itself_never(make, journal, sign):
    study = Study(journal(), make(WIDE), replace(ABOUT, sign=sign), Tune(prune=Prune(min_epochs=1)))
    baseline = study.ask()
    assert study.epoch(baseline, 0, [0.0]) == study.between_folds(baseline) == ""
    others = [study.ask() for _ in range(5)]
    for i, trial in enumerate(others):
        for fold in trial.order:
            level = 0.9 - 0.01 * i - 0.001 * i * fold
            assert study.epoch(trial, fold, [sign * (level - 0.3)]) == ""  # nobody has finished yet
            study.keep_curve(trial, fold, [sign * (level - 0.3), sign * level], 1.0, is_done=True)
        assert study.between_folds(trial) == ""
    study.finish(others[0], sign * 0.9)
    bad = study.ask()
    assert "behind trial 1" in study.epoch(bad, bad.order[0], [sign * 0.1])
    assert study.epoch(bad, bad.order[0], [sign * 0.65]) == ""
    for fold in baseline.order:
        assert study.epoch(baseline, fold, [sign * 0.1]) == ""
        study.keep_curve(baseline, fold, [sign * 0.1], 1.0, is_done=True)
        assert study.between_folds(baseline) == ""
    assert "after 3 folds: behind trial 1 by 0.0440" in study.between_folds(others[4])


# --- several machines ------------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path):
    """Opens the same database, each time as another machine would."""
    opened = []

    def open_it() -> BaseStorage:
        opened.append(open_storage(f"sqlite:///{tmp_path / 'shared.db'}", tmp_path / "unused.journal"))
        return opened[-1]

    yield open_it
    for storage in opened:
        storage.remove_session()
        storage.engine.dispose()
    assert not (tmp_path / "unused.journal").exists()


def test_two_drivers_share_a_study(make, database):
    space = make(WIDE)
    here, there = (Study(database(), space, replace(ABOUT, driver=name), Tune()) for name in ("here", "there"))
    asked = [study.ask() for _ in range(4) for study in (here, there)]
    assert [trial.number for trial in asked] == list(range(8))
    assert (
        len({trial.identity for trial in asked}) == 8 and [trial.is_baseline for trial in asked] == [True] + [False] * 7
    )
    assert here.running() == asked[::2] and there.running() == asked[1::2]
    there.keep_curve(asked[1], 2, [0.25, 0.5], 1.0, is_done=True)
    there.finish(asked[1], 0.75)
    assert here.trials[1].state == "running"
    here.refresh()
    assert data(here.trials[1:2]) == data(asked[1:2]) and here.best is here.trials[1]
    assert here.trials[1].curves == {2: [0.25, 0.5]} and here.n_own == 8
    assert here.trials[0] is asked[0]  # its own are not read anew: they may be ahead of the store


def test_one_that_asks_in_the_midst_of_the_others_asking_gets_another_number(make, database):
    space = make(WIDE)
    here, there = (Study(database(), space, replace(ABOUT, driver=name), Tune()) for name in ("here", "there"))
    here.ask()
    draw, quicker = here._draw, []

    def slow(*arguments):
        raw = draw(*arguments)
        quicker.append(there.ask())
        return raw

    here._draw = slow
    trial = here.ask()
    assert [t.number for t in quicker] == [1] and trial.number == 2
    assert here.trials[2] is trial and here.trials[1].driver == "there"
    here.keep_curve(trial, 0, [0.5], 1.0, is_done=True)
    here.finish(trial, 0.5)
    there.refresh()
    assert [t.state for t in there.trials] == ["running", "running", "finished"] and there.trials[2].value == 0.5


def test_trials_of_a_machine_that_is_gone_are_taken_over(make, database):
    space = make(WIDE)
    here, gone, alive = (
        Study(database(), space, replace(ABOUT, driver=name), Tune()) for name in ("here", "gone", "alive")
    )
    trials = [study.ask() for study in (here, gone, gone, alive)]
    gone.keep_curve(trials[1], 1, [0.25], 2.0, is_done=True)
    gone.prune(trials[2], "behind")
    left = gone.ask()
    here.refresh()
    assert here.running() == [trials[0]]
    assert here.adopt(set()) == 0 and here.adopt({"gone"}) == 2
    assert [trial.number for trial in here.running()] == [0, 1, left.number]
    found = here.running()[1]
    assert (found.curves, found.done, found.driver) == ({1: [0.25]}, {1}, "here")
    assert here.trials[2].driver == "gone" and here.trials[3].driver == "alive"
    again = Study(database(), space, ABOUT, Tune())
    assert data(again.running()) == data(here.running()) and again.adopt({"gone"}) == 0
    here.finish(found, 0.5)
    alive.refresh()
    assert alive.trials[1].state == "finished" and alive.running() == [trials[3]]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nowhere/at/all/tune.db",
        "postgresql://me:secret@127.0.0.1:9/tune",
        "mysql+nodriver://me:secret@127.0.0.1/tune",
        "nonsense",
        "me:secret@nonsense",
    ],
)
def test_a_storage_that_leads_nowhere_is_a_mistake(tmp_path, url):
    with pytest.raises(Mistakes) as caught:
        open_storage(url, tmp_path / "tune.journal")
    text = str(caught.value)
    assert text.startswith("1 mistake") and "tune.storage" in text and "valid: journal, or a URL" in text
    assert url.rpartition("@")[2] in text and "secret" not in text
    assert list(tmp_path.iterdir()) == []


# --- what older studies know -----------------------------------------------------------------------------------------


def test_a_changed_space_inherits_what_fits_and_only_that(make, journal):
    older = Study(journal(), make({"train.lr": RATE, "train.loss.name": LOSSES}), ABOUT, Tune(startup=50))
    before = played(older, 14)
    before.append(older.ask())  # and one that is running
    narrow = make({"train.lr": {"low": 3e-4, "high": 3e-2, "log": True}, "train.loss.name": {"choices":
                   ["cross_entropy", "bce"]}, "model.drop_rate": {"low": 0.0, "high": 0.5}})  # fmt: skip
    study = Study(journal(), narrow, replace(ABOUT, name="own-2"), Tune())
    fits = [t for t in before if t.state in ("finished", "pruned") and 3e-4 <= t.raw["train.lr"] <= 3e-2
            and t.raw["train.loss.name"] == "cross_entropy"]  # fmt: skip
    assert 2 <= len(fits) < len(before) and {t.state for t in fits} == {"finished", "pruned"}
    assert study.n_own == 0 and len(study.trials) == len(fits)
    for old, new in zip(fits, study.trials, strict=True):
        assert new.inherited == "own-1"
        assert (new.state, new.value, new.why, new.curves, new.done, new.seconds, new.order, new.identity) == (
            old.state, old.value, old.why, old.curves, old.done, old.seconds, old.order, old.identity)  # fmt: skip
        assert new.is_baseline == old.is_baseline
        assert new.raw == {**old.raw, "model.drop_rate": 0.0, "train.lr": pytest.approx(old.raw["train.lr"], rel=1e-3)}
        assert searched(narrow.settings(new.raw)) == old.identity
        assert new.is_baseline or new.changes == narrow.changes(new.raw)
    own = study.ask()
    assert own.identity not in {t.identity for t in study.trials[:-1]} and not own.inherited
    assert (own.is_baseline, study.n_own) == (not any(t.is_baseline for t in fits), 1)
    assert data(Study(journal(), narrow, replace(ABOUT, name="own-2"), Tune()).trials) == data(study.trials)
    assert data(older.trials) == data(Study(journal(), older.space, ABOUT, Tune()).trials)  # which keeps its own


def test_what_is_inherited_is_learnt_from(make, journal):
    """Twenty trials of the older study count as the first random ones of the new one."""
    space = make({"train.lr": RATE})
    older = Study(journal(), space, ABOUT, Tune())
    for _ in range(25):
        trial = older.ask()
        older.finish(trial, 0.9 - 0.1 * abs(np.log10(trial.raw["train.lr"]) + 4))
    study = Study(journal(), make({"train.lr": {**RATE, "high": 0.9e-1}}), replace(ABOUT, name="own-2"), Tune(seed=7))
    assert study.n_own == 0 and study.best.value == older.best.value
    near = [abs(np.log10(study.ask().raw["train.lr"]) + 4) < 1 for _ in range(8)]
    assert sum(near) >= 6  # at random, four


def test_other_data_inherits_nothing(make, journal):
    played(Study(journal(), make(WIDE), ABOUT, Tune()), 6)
    study = Study(journal(), make(WIDE), replace(ABOUT, name="own-2", context="other data"), Tune())
    assert study.trials == [] and study.ask().is_baseline


def test_a_third_study_inherits_once_and_names_who_trained(make, journal):
    first = Study(journal(), make(WIDE), ABOUT, Tune())
    n = sum(trial.state in ("finished", "pruned") for trial in played(first, 6))
    second = Study(
        journal(), make({**WIDE, "model.drop_rate": {"low": 0.0, "high": 0.5}}), replace(ABOUT, name="own-2"), Tune()
    )
    for _ in range(2):
        trial = second.ask()
        second.finish(trial, lead(trial))
    third = Study(
        journal(), make({**WIDE, "model.drop_rate": {"low": 0.0, "high": 0.4}}), replace(ABOUT, name="own-3"), Tune()
    )
    fits = [trial for trial in second.trials if trial.raw["model.drop_rate"] <= 0.4]
    assert len({trial.identity for trial in third.trials}) == len(third.trials) == len(fits) >= n
    assert sorted(t.inherited for t in third.trials) == sorted(t.inherited or "own-2" for t in fits)


def test_another_experiment_of_the_same_data_is_inherited_from_its_own_point(make, journal):
    """The experiment takes over what the search found: its own point is then a trial of the older study."""
    older = Study(journal(), make({"train.lr": RATE}), ABOUT, Tune())
    trials = [older.ask() for _ in range(3)]
    for trial in trials:
        older.finish(trial, 0.5 + 0.1 * trial.number)
    lr = older.space.settings(trials[2].raw).train.lr
    study = Study(journal(), make({"train.lr": RATE}, train={"lr": lr}), replace(ABOUT, name="own-2"), Tune())
    assert [(t.is_baseline, t.value) for t in study.trials] == [(False, 0.5), (False, 0.6), (True, 0.7)]
    assert study.trials[2].changes == {} and study.trials[0].changes == {"train.lr": 1e-3}
    assert not study.ask().is_baseline


def test_the_experiment_itself_is_trained_whole_also_where_an_older_study_gave_it_up(make, journal):
    older = Study(journal(), make({"train.lr": RATE}), ABOUT, Tune())
    older.finish(older.ask(), 0.5)
    trial = older.ask()
    older.keep_curve(trial, 0, [0.1], 1.0, is_done=False)
    older.prune(trial, "behind")
    lr = older.space.settings(trial.raw).train.lr
    study = Study(journal(), make({"train.lr": RATE}, train={"lr": lr}), replace(ABOUT, name="own-2"), Tune())
    own = study.ask()
    assert own.is_baseline and own.state == "running" and study.baseline is own


def test_a_space_that_stands_in_the_experiments_file_inherits_as_well(make, journal):
    file = {"tune": {"space": {"train.loss.name": LOSSES, "train.lr": RATE}}}
    played(Study(journal(), make({"train.lr": RATE, "train.loss.name": LOSSES, "augment.mixup": {"low": 0.0, "high": 1.0}},
                                 **file), ABOUT, Tune()), 3)  # fmt: skip
    study = Study(journal(), make(WIDE, **file), replace(ABOUT, name="own-2"), Tune())
    assert len(study.trials) >= 1 and study.n_own == 0


def test_a_kill_while_it_inherits_leaves_nothing_out_and_nothing_twice(make, journal, monkeypatch):
    played(Study(journal(), make(WIDE), ABOUT, Tune()), 8)
    storage = journal()
    create, left = storage.create_new_trial, [3]

    def dies(*arguments, **more):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return create(*arguments, **more)

    monkeypatch.setattr(storage, "create_new_trial", dies)
    with pytest.raises(KeyboardInterrupt):
        Study(storage, make(WIDE), replace(ABOUT, name="own-2"), Tune())
    killed = Study(journal(), make(WIDE), replace(ABOUT, name="own-2"), Tune())
    whole = Study(journal(), make(WIDE), replace(ABOUT, name="own-3"), Tune())
    assert len(killed.trials) == 7 == len(whole.trials)  # of eight, trial 4 failed
    assert [t.identity for t in killed.trials] == [t.identity for t in whole.trials]

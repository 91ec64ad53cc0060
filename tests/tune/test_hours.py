"""HOURS holds for all of a search: trials, and the trainings that the choice among them needs."""

import time
from types import SimpleNamespace

import pytest

from pipeline import kept
from pipeline.config.tuning import Tune
from pipeline.stages.tune_search import OVERHEAD, SPENT, Search


def search(tmp_path, hours, baseline_s=60.0, state="finished", spent_s=0.0, n_workers=1, **confirm) -> Search:
    tune = Tune.model_validate({"trials": "off", "hours": hours, "confirm": confirm})
    work = SimpleNamespace(settings=SimpleNamespace(tune=tune))
    study = SimpleNamespace(baseline=SimpleNamespace(seconds=baseline_s, state=state))
    begun = time.monotonic() - spent_s
    return Search(work, study, tmp_path, tmp_path, tmp_path, {}, None, None, begun, n_workers)  # ty: ignore


def test_a_trial_begins_only_where_it_and_the_choice_end_in_time(tmp_path):
    """A training takes a minute: the choice of the best three and the experiment itself takes four, a trial one."""
    at = search(tmp_path, hours=(1 + 4) * OVERHEAD / 60 + 0.01)
    assert not at.is_time_over() and at.n_again == 1  # half of what is left does for one and the experiment
    for spent_s, over in ((0, False), (9 * 60, False), (16 * 60, True), (21 * 60, True)):
        at = search(tmp_path, hours=20 / 60, spent_s=spent_s)
        at.n_again = 3
        assert at.is_time_over() == over, spent_s
    assert search(tmp_path, hours=20 / 60).choice_s(3) == pytest.approx(4 * 60 * OVERHEAD)
    assert search(tmp_path, hours=20 / 60, n_workers=2, seeds=3).choice_s(3) == pytest.approx(6 * 60 * OVERHEAD)


def test_fewer_are_trained_again_where_time_is_short_and_one_at_least(tmp_path):
    at = search(tmp_path, hours=1.0, top=5)
    assert [at.n_that_fit(minutes * 60 * OVERHEAD) for minutes in (0, 2, 3.5, 6, 60)] == [1, 1, 2, 5, 5]


def test_the_experiment_itself_is_trained_whatever_the_time_and_hours_may_be_off(tmp_path):
    assert not search(tmp_path, hours=0.01, baseline_s=1e6, state="running").is_time_over()
    assert search(tmp_path, hours=0.01, baseline_s=1e6).is_time_over()
    tune = search(tmp_path, hours=1.0)
    tune.work.settings.tune = Tune(trials=40)
    assert not tune.is_time_over() and tune.n_that_fit(tune.left_s) == 3


def test_the_time_of_a_killed_command_counts(tmp_path):
    search(tmp_path, hours=1.0, spent_s=600).note_time()
    assert kept.read_json(tmp_path / SPENT)["seconds"] == pytest.approx(600, abs=5)

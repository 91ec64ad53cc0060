"""What is decided from the history of a fold."""

import pytest

from pipeline.config.metric import parse_metric
from pipeline.config.training import Train
from pipeline.records import EpochRecord, best_epoch, is_over, optimism

F1, RMSE = parse_metric("macro_f1", "class"), parse_metric("rmse", "regression")


def history(*scores: float) -> list[EpochRecord]:
    return [
        EpochRecord(fold=0, n_folds=5, seed=0, epoch=i + 1, epochs=9, train_loss=0, valid_loss=0, score=s, lr=0, grad_norm=0,
                    images_per_s=0, seconds=0)
        for i, s in enumerate(scores)
    ]  # fmt: skip


def test_the_best_epoch_is_the_first_that_no_other_beats():
    assert best_epoch(history(0.3, 0.5, 0.4, 0.5), F1) == 2
    assert best_epoch(history(3.0, 2.0, 2.5, 2.0), RMSE) == 2


def test_early_stopping_waits_as_long_as_it_was_told():
    config = Train(early_stopping=2)
    over = [is_over(history(*[0.3, 0.5, 0.4, 0.5, 0.4][:n]), config, F1) for n in range(6)]
    assert over == [False, False, False, False, True, True]
    assert not is_over(history(*[0.5] * 9), Train(), F1)


def test_optimism_by_hand():
    """Fold A is best at epoch 2 (0.9), but the other folds would have said epoch 1, where it has 0.5."""
    curves = [[0.5, 0.9, 0.4], [0.8, 0.2, 0.6], [0.8, 0.2, 0.6]]
    # A: 0.9 - 0.5; B and C: the others' mean is (0.65, 0.55, 0.5), epoch 1, which is their own best
    assert optimism(curves, F1) == pytest.approx(0.4 / 3)
    assert optimism([[1 - v for v in curve] for curve in curves], RMSE) == pytest.approx(0.4 / 3)
    assert optimism(curves[:1], F1) is None
    assert optimism([[0.1, 0.5], [0.2, 0.6, 0.7]], F1) == pytest.approx(0.05)  # 0.7 was chosen, 0.6 would have been


def test_optimism_of_pure_noise_is_what_picking_the_luckiest_gives():
    import numpy as np

    rng = np.random.default_rng(0)
    found = [optimism(rng.normal(0, 0.02, (5, 10)).tolist(), F1) for _ in range(400)]
    assert np.mean(found) == pytest.approx(0.02 * 1.539, rel=0.1)  # expected maximum of ten normal draws

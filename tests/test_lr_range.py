"""The range test, judged by trainings at the rates it names, by hand-made curves and by itself twice."""

import dataclasses
import math
import re
import threading

import numpy as np
import pytest
import torch

import pipeline.lr_range as room
import pipeline.train
from pipeline.augment import image_keys
from pipeline.config.data import Preprocessing
from pipeline.config.settings import Experiment
from pipeline.lr_range import LrRange, find_lr_range, judge
from pipeline.precision import Precision
from pipeline.records import EpochRecord, FoldRun
from pipeline.resume import ResumeState
from pipeline.task import Task
from pipeline.train import TrainingData, TrainingDiverged, train_fold

CPU = torch.device("cpu")
N = 96
CLASSES = ("a", "b", "c", "d")
TASKS = {
    "class": (Task("class", "softmax", CLASSES), "macro_f1", {}),
    "multilabel": (Task("multilabel", "sigmoid", CLASSES[:2]), "macro_f1", {"loss": {"name": "bce"}}),
    "ordinal": (Task("ordinal", "corn", CLASSES), "quadratic_kappa", {"loss": {"name": "corn"}}),
    "regression": (Task("regression", "number", ()), "rmse", {"loss": {"name": "mse"}}),
}


def data(kind: str = "class") -> TrainingData:
    """The label is a function of how bright both halves are, and every fifth or so is wrong.

    Without wrong ones the set is soon known by heart, and then no rate does harm any more.
    """
    rng = np.random.default_rng(0)
    truth = np.arange(N) % 4
    levels = np.repeat(np.stack([truth // 2, truth % 2], axis=1) * 100 + 50, 8, axis=1)  # (N, 16 columns)
    truth = np.where(rng.random(N) < 0.2, rng.permutation(truth), truth)
    pixels = levels[:, None, :, None] + rng.integers(-40, 40, (N, 16, 16, 1))
    images = torch.from_numpy(pixels.astype(np.uint8))
    targets = {
        "multilabel": torch.from_numpy(np.stack([truth // 2, truth % 2], axis=1)).float(),
        "regression": torch.from_numpy(1000 + 50.0 * truth + rng.normal(0, 5, N)).float(),
    }.get(kind, torch.from_numpy(truth))
    ids = [f"image-{i}" for i in range(N)]
    return TrainingData(
        images=images,
        pixels=lambda row: images[row].numpy(),
        targets=targets,
        train_targets=targets,
        image_ids=np.array(ids),
        keys=image_keys(ids),
        task=TASKS[kind][0],
        metric=TASKS[kind][1],
        preprocessing=Preprocessing(mode="L", px=16, crop=1.0, interpolation="bicubic", mean=(0.5,), std=(0.25,)),
    )


class Tiny(torch.nn.Module):
    """No BatchNorm, which would forgive any rate and let batches see each other; with dropout."""

    default_cfg = {"classifier": "head"}  # noqa: RUF012

    def __init__(self, n_logits: int, drop_rate: float):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 8, 5, stride=2)
        self.drop = torch.nn.Dropout(drop_rate)
        self.head = torch.nn.Linear(8 * 36, n_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.conv(x).relu().flatten(1)))


@pytest.fixture(autouse=True)
def models(monkeypatch) -> list[torch.nn.Module]:
    """Every model that was built, all of them `Tiny`."""
    built: list[torch.nn.Module] = []

    def build(settings, n_logits: int, mode: str) -> torch.nn.Module:
        built.append(Tiny(n_logits, settings.drop_rate))
        return built[-1]

    monkeypatch.setattr(room, "build_model", build)
    monkeypatch.setattr(pipeline.train, "build_model", build)
    return built


def settings(kind: str = "class", drop_rate: float = 0.0, augment: dict | None = None, **train) -> Experiment:
    plain = {"batch_size": 16, "schedule": {"name": "constant"}, "clip_norm": "off"}
    return Experiment.model_validate({
        "competition": {"source": "csv", "name": "tiny", "root": "data/tiny", "target": kind,
                        "metric": TASKS[kind][1]},
        "model": {"name": "test_resnet", "drop_rate": drop_rate},
        "augment": augment or {},
        "train": {**plain, **train},
    })  # fmt: skip


def sweep(kind: str = "class", precision: str = "fp32", rows=None, n_steps: int = 120, **sections) -> LrRange:
    config = settings(kind, **{**TASKS[kind][2], **sections})
    return find_lr_range(data(kind), np.arange(N) if rows is None else rows, config, Precision(precision), CPU, n_steps)


def train(
    tmp_path, kind: str, lr: float, on_epoch=lambda _: None, **sections
) -> tuple[torch.nn.Module, list[EpochRecord]]:
    config = settings(kind, **{**TASKS[kind][2], **sections, "lr": lr, "epochs": sections.get("epochs", 5)})
    state = ResumeState(tmp_path / f"{kind}-{lr}-{len(list(tmp_path.iterdir()))}", {"settings": "s"})
    rows = np.arange(N)
    trained = train_fold(
        data(kind), rows, rows, FoldRun(0, 1, config.train.seeds[0]), config, Precision(), CPU, state, on_epoch
    )
    return trained.model, trained.history


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


SGD = {"name": "sgd", "weight_decay": 0.0}
ADAMW = {"name": "adamw"}


# --- is it the right range -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=lambda o: o["name"])
@pytest.mark.parametrize("kind", TASKS)
def test_it_trains_within_the_range_and_diverges_above_it(tmp_path, kind, optimizer):
    found = sweep(kind, optimizer=optimizer)
    first = found.losses[5]

    def loss_after(lr: float) -> float:
        try:
            return train(tmp_path, kind, lr, optimizer=optimizer)[1][-1].train_loss
        except TrainingDiverged:
            return math.inf

    low, middle, high = (loss_after(lr) for lr in (found.low, math.sqrt(found.low * found.high), found.high))
    assert middle < 0.8 * first and high < 0.8 * first
    assert min(middle, high) < low < 0.95 * first  # it learns there already, and more slowly
    assert loss_after(10 * found.high) > first


def test_adamw_wants_lower_rates_than_sgd():
    adamw, sgd = sweep(optimizer=ADAMW), sweep(optimizer={**SGD, "options": {"momentum": 0.0}})
    assert adamw.low < sgd.low and 3 * adamw.high < sgd.high


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sixteen_bits_want_much_the_same_range(precision):
    full, half = sweep(optimizer=SGD), sweep(optimizer=SGD, precision=precision)
    assert half.losses != full.losses
    assert full.high / 3 < half.high < 3 * full.high and full.low / 3 < half.low < 3 * full.low


def test_the_rate_in_the_settings_changes_nothing():
    one, other = sweep(lr=1e-3), sweep(lr=3.0)
    assert (one.low, one.high) == (other.low, other.high)
    assert one.losses[:60] == pytest.approx(other.losses[:60], rel=1e-4)


# --- the same training as train_fold's -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sections",
    [
        {
            "accumulation": 2,
            "epochs": 8,
            "clip_norm": 0.5,
            "seeds": [3],
            "optimizer": {"name": "sgd", "options": {"momentum": 0.5}},
        },
        {"drop_rate": 0.3, "augment": {"mixup": 0.4, "flip": 0.5}, "sampler": {"name": "balanced"}, "epochs": 4},
        {"head_lr_ratio": 5.0, "loss": {"name": "focal"}, "freeze_epochs": 4, "epochs": 5},
    ],
    ids=["accumulation", "mixup", "frozen"],
)
def test_at_one_rate_it_ends_in_the_weights_of_train_fold(tmp_path, models, monkeypatch, sections):
    """The sweep's own loop against the training loop: the same rate at each step has to give the same bits."""
    lr, per_epoch = 0.01, N // (16 * sections.get("accumulation", 1))
    n_epochs = sections.get("freeze_epochs", sections["epochs"])  # the sweep is like the frozen ones
    monkeypatch.setattr(room, "FIRST_LR", lr)
    monkeypatch.setattr(room, "LAST_LR", lr)
    monkeypatch.setattr(room, "TIMES", math.inf)  # nothing ends it early
    sweep(lr=lr, n_steps=n_epochs * per_epoch, **sections)
    swept = models[-1]
    seen = []

    def after(epoch: EpochRecord) -> None:
        if epoch.epoch == n_epochs:
            seen.append(weights(models[-1]).clone())

    train(tmp_path, "class", lr, on_epoch=after, **sections)
    assert torch.equal(weights(swept), seen[0])


def test_every_group_of_parameters_rises_in_its_own_ratio(monkeypatch):
    rates = []
    original = room.clip
    monkeypatch.setattr(
        room,
        "clip",
        lambda optimizer, norm: (
            rates.append({g["role"]: g["lr"] for g in optimizer.param_groups}) or original(optimizer, norm)
        ),
    )
    found = sweep(head_lr_ratio=20.0, lr=0.5, n_steps=24)
    assert {role for rate in rates for role in rate} == {"body", "head"}
    assert [rate["body"] for rate in rates] == pytest.approx(np.geomspace(1e-6, 10, 24)[: len(rates)])
    assert [rate["head"] / rate["body"] for rate in rates] == pytest.approx([20.0] * len(rates))
    assert found.lrs == pytest.approx([rate["body"] for rate in rates][: len(found.lrs)])


def test_a_head_that_is_mostly_alone_in_training_is_alone_in_the_sweep(models):
    """What the settings train in most epochs, from the first step to the last."""
    for freeze_epochs, moves in ((2, True), (8, False)):
        sweep(epochs=10, freeze_epochs=freeze_epochs, n_steps=24)
        torch.manual_seed(pipeline.train.mixed_seed(0, 0))
        start = Tiny(4, 0.0)
        assert torch.equal(models[-1].conv.weight, start.conv.weight) != moves
        assert not torch.equal(models[-1].head.weight, start.head.weight)


@pytest.mark.parametrize("augment", [{}, {"mixup": 0.4, "flip": 0.5}], ids=["plain", "mixup"])
def test_the_same_effective_batch_gives_the_same_losses(augment):
    whole, parts = sweep(batch_size=32, augment=augment), sweep(batch_size=8, accumulation=4, augment=augment)
    n = int(np.searchsorted(whole.lrs, whole.high))  # beyond, rounding errors grow like everything else
    assert n > 50 and parts.losses[:n] == pytest.approx(whole.losses[:n], rel=1e-3)
    assert parts.high == pytest.approx(whole.high, rel=0.2)


def test_other_rows_are_never_seen():
    """Poisoned ones would show in the losses."""
    rows, poisoned = np.arange(0, 40), data()
    poisoned.images[40:] = 0
    poisoned.train_targets[40:] = 0
    found = find_lr_range(poisoned, rows, settings(), Precision(), CPU)
    assert found == sweep(rows=rows)


# --- nothing of it is kept -----------------------------------------------------------------------------------------


def test_it_is_a_function_of_its_arguments_and_leaves_no_trace(tmp_path):
    lively = {"drop_rate": 0.3, "augment": {"rotate_deg": 20, "flip": 0.5, "mixup": 0.2}}
    untouched, _ = train(tmp_path, "class", 0.01, **lively)
    torch.manual_seed(5)
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    found = sweep(**lively)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numbers  # noqa: NPY002
    assert not [t for t in threading.enumerate() if t.name.startswith("feed")]
    torch.rand(7)
    assert sweep(**lively) == found
    assert sweep(seeds=[1], **lively) != found
    after, _ = train(tmp_path, "class", 0.01, **lively)
    assert torch.equal(weights(after), weights(untouched))


# --- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("breaks_at", [1, 50])
def test_losses_that_are_not_finite_end_it_without_an_exception(monkeypatch, breaks_at):
    class Breaks(Tiny):
        n_calls = 0

        def forward(self, x):
            Breaks.n_calls += 1
            return super().forward(x) * (math.nan if Breaks.n_calls >= breaks_at else 1.0)

    monkeypatch.setattr(room, "build_model", lambda settings, n_logits, mode: Breaks(n_logits, 0.0))
    found = sweep()
    assert Breaks.n_calls <= breaks_at + 8  # looked at in time
    assert len(found.losses) == len(found.lrs) == breaks_at - 1 and "not finite" in found.note
    assert 0 < found.low < found.high and np.isfinite(found.losses).all()


def test_a_divergence_ends_it_before_the_last_step():
    found = sweep("regression", optimizer=SGD)
    assert len(found.lrs) == len(found.losses) < 110 and re.search("the loss (rose|is not finite)", found.note)
    assert found.high < found.lrs[-1]


def test_labels_that_nothing_tells_give_a_guess_and_say_so():
    blank = dataclasses.replace(data(), images=torch.full((N, 16, 16, 1), 128, dtype=torch.uint8))
    found = find_lr_range(blank, np.arange(N), settings(), Precision(), CPU)
    assert "never fell clearly" in found.note and found.high <= found.lrs[-1] / 9


LRS = np.geomspace(1e-6, 10, 120).tolist()


def curve(falls_from: float, falls_to: float, rises_from: float, noise: float = 0.0, seed: int = 0) -> list[float]:
    """2 up to a rate, 1 from another on, and steeply up from a third on; linear in the logarithm."""
    x = np.log10(LRS)
    fall = np.clip((x - math.log10(falls_from)) / math.log10(falls_to / falls_from), 0, 1)
    rise = 10 ** np.clip(2 * (x - math.log10(rises_from)), 0, 4) - 1
    return (2 - fall + rise + np.random.default_rng(seed).normal(0, noise, 120)).tolist()


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("plateau", [3, 30, 300])
def test_the_range_ends_where_the_fall_does_however_long_the_loss_stays_low(noise, plateau):
    found = [judge(LRS, curve(1e-4, 1e-2, 1e-2 * plateau, noise, seed)) for seed in range(20)]
    assert all("rose" in f.note and 1e-2 / 4 < f.high < 0.2 and 5e-5 < f.low < 1e-3 for f in found)
    assert np.median([f.high for f in found]) < 0.05


def test_a_loss_that_falls_until_it_diverges_keeps_its_distance():
    found = judge(LRS, curve(1e-4, 1e-2, 2e-3))
    assert found.high <= 1e-3


def test_noise_alone_is_no_fall():
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert "never fell" in judge(LRS, rng.normal(2, 0.5, 120).tolist()).note


def test_two_digits_and_a_range_of_one_to_three_powers_of_ten():
    for falls_from, falls_to in ((1e-5, 1e-1), (9e-3, 1.1e-2), (1e-4, 1e-3)):
        found = judge(LRS, curve(falls_from, falls_to, 1.0))
        assert [float(f"{x:.1e}") for x in (found.low, found.high)] == [found.low, found.high]
        assert 9.7 <= found.high / found.low <= 1030


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="n_steps=23 is too few"):
        sweep(n_steps=23)

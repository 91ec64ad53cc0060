"""The loop: what happens to the weights, judged by hand-worked cases, by torch's autograd and by itself twice."""

import dataclasses
import functools
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline.train as room
from pipeline.augment import image_keys
from pipeline.config.data import Preprocessing
from pipeline.config.mistakes import Mistakes, Stopped
from pipeline.config.settings import Experiment
from pipeline.config.training import Balanced, Shuffle
from pipeline.feed import window_rows
from pipeline.metrics import score
from pipeline.precision import Precision
from pipeline.predict import predict
from pipeline.records import FoldRun
from pipeline.resume import ResumeState
from pipeline.task import Task
from pipeline.train import TrainingData, TrainingDiverged, out_of_memory_explained, train_fold

IDENTITY = {"settings": "s", "folds": "f", "images": "i"}
SPEC = Preprocessing(mode="L", px=16, crop=1.0, interpolation="bicubic", mean=(0.5,), std=(0.25,))
CPU = torch.device("cpu")
PLAIN = Precision()


def data(n: int, n_classes: int = 4, seed: int = 0) -> TrainingData:
    """Random images whose labels are random too: nothing to generalise, everything to memorise."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"image-{i}" for i in range(n)])
    images = torch.from_numpy(rng.integers(0, 256, (n, 16, 16, 1)).astype(np.uint8))
    return TrainingData(
        images=images,
        pixels=lambda row: images[row].numpy(),
        targets=torch.from_numpy(np.arange(n) % n_classes),
        train_targets=torch.from_numpy(np.arange(n) % n_classes),
        image_ids=ids,
        keys=image_keys(list(ids)),
        task=Task("class", "softmax", tuple(f"c{i}" for i in range(n_classes))),
        metric="macro_f1",
        preprocessing=SPEC,
    )


class Tiny(torch.nn.Module):
    """No BatchNorm, so that batches do not see each other; dropout on demand."""

    def __init__(self, n_classes: int, drop_rate: float = 0.0, seed: int | None = None):
        super().__init__()
        if seed is not None:
            torch.manual_seed(seed)
        self.conv = torch.nn.Conv2d(1, 8, 5, stride=2)
        self.drop = torch.nn.Dropout(drop_rate)
        self.head = torch.nn.Linear(8 * 36, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.conv(x).relu().flatten(1)))


@pytest.fixture
def tiny(monkeypatch):
    """Puts `Tiny` in place of timm's model."""

    def use(drop_rate: float = 0.0) -> None:
        monkeypatch.setattr(room, "build_model", lambda settings, n_classes, mode: Tiny(n_classes, drop_rate))

    use()
    return use


def settings(**train) -> Experiment:
    sections = {"augment": train.pop("augment", {}), "model": {"name": train.pop("model", "test_resnet")}}
    return Experiment.model_validate({"competition": {"source": "digits"}, "train": train, **sections})


def fit(
    config: Experiment,
    training: TrainingData,
    tmp_path,
    rows=None,
    valid=None,
    name="state",
    on_epoch=lambda _: None,
    identity=IDENTITY,
    precision=PLAIN,
):
    n = len(training.targets)
    rows = np.arange(n) if rows is None else rows
    valid = np.arange(n) if valid is None else valid
    state = ResumeState(tmp_path / name, identity, config.train.select == "best")
    which = FoldRun(0, 1, config.train.seeds[0])
    with out_of_memory_explained(config.train):
        trained = train_fold(training, rows, valid, which, config, precision, CPU, state, on_epoch)
    return trained.model, trained.history


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


# --- does it learn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [3, 18])
def test_the_loss_starts_near_log_of_the_number_of_classes(tmp_path, n_classes):
    config = settings(epochs=1, batch_size=36, lr=1e-6, schedule={"name": "constant"})
    _, [record] = fit(config, data(36, n_classes), tmp_path)
    assert record.train_loss == pytest.approx(math.log(n_classes), rel=0.15)


def test_it_overfits_32_images(tmp_path):
    config = settings(epochs=40, batch_size=16, lr=5e-3, schedule={"name": "constant"}, optimizer={"weight_decay": 0.0})
    _, history = fit(config, data(32), tmp_path)
    assert history[0].score < 0.6
    assert history[-1].train_loss < 0.05 and history[-1].score == 1.0


# --- accumulation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [64, 77])  # 77: the last window has 13 rows, and in it a batch of 5
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_four_batches_of_eight_are_one_of_thirty_two(tmp_path, tiny, n, optimizer):
    lr = {"sgd": 0.1, "adamw": 0.01}[optimizer]
    common = {"epochs": 3, "lr": lr, "optimizer": {"name": optimizer}, "schedule": {"name": "cosine"}, "clip_norm": 0.5}
    training = data(n)
    whole, history = fit(settings(batch_size=32, accumulation=1, **common), training, tmp_path, name="whole")
    parts, again = fit(settings(batch_size=8, accumulation=4, **common), training, tmp_path, name="parts")
    start = weights(Tiny(4, seed=room.mixed_seed(0, 0)))
    moved = (weights(whole) - start).abs().max()
    assert moved > 0.01
    assert (weights(whole) - weights(parts)).abs().max() < 1e-4 * moved
    assert [r.train_loss for r in history] == pytest.approx([r.train_loss for r in again], rel=1e-4)
    assert [r.lr for r in history] == [r.lr for r in again]  # per effective batch


def test_one_step_is_the_one_that_autograd_and_sgd_give(tmp_path, tiny):
    """A whole uneven window against loss.mean() over its 13 rows, worked by hand."""
    training = data(13)
    no_momentum = {"name": "sgd", "weight_decay": 0.0, "options": {"momentum": 0.0, "nesterov": False}}
    config = settings(
        epochs=1,
        batch_size=4,
        accumulation=4,
        lr=0.1,
        optimizer=no_momentum,
        schedule={"name": "constant"},
        clip_norm="off",
    )
    model, [record] = fit(config, training, tmp_path)
    by_hand = Tiny(4, seed=room.mixed_seed(0, 0))
    x = (training.images.float() / 255 - 0.5) / 0.25
    loss = torch.nn.functional.cross_entropy(by_hand(x.permute(0, 3, 1, 2)), training.targets)
    loss.backward()
    assert record.train_loss == pytest.approx(loss.item(), rel=1e-5)
    norm = torch.cat([p.grad.flatten() for p in by_hand.parameters()]).norm().item()
    assert record.grad_norm == pytest.approx(norm, rel=1e-4)
    for (name, mine), theirs in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(mine, theirs - 0.1 * theirs.grad, atol=1e-6), name


@pytest.mark.parametrize(
    ("n", "batch_size", "accumulation", "expected"),
    [
        (10, 4, 1, [[4], [4], [2]]),
        (10, 4, 2, [[4, 4], [2]]),
        (9, 4, 1, [[4], [5]]),  # a single row would break BatchNorm
        (1, 4, 3, [[1]]),
        (12, 3, 4, [[3, 3, 3, 3]]),
    ],
)
def test_windows_hold_each_row_once(n, batch_size, accumulation, expected):
    windows = window_rows(np.arange(n), batch_size, accumulation)
    assert [np.diff([*starts, len(rows)]).tolist() for rows, starts in windows] == expected
    assert np.concatenate([rows for rows, _ in windows]).tolist() == list(range(n))


def test_clipping_bounds_what_one_window_can_do(tmp_path, tiny):
    plain_sgd = {"name": "sgd", "weight_decay": 0.0, "options": {"momentum": 0.0, "nesterov": False}}
    config = settings(
        epochs=1, batch_size=64, lr=1.0, optimizer=plain_sgd, schedule={"name": "constant"}, clip_norm=0.01
    )
    model, [record] = fit(config, data(32), tmp_path)
    assert record.grad_norm > 0.05  # reported before clipping
    start = weights(Tiny(4, seed=room.mixed_seed(0, 0)))
    assert (weights(model) - start).norm().item() == pytest.approx(0.01, rel=1e-3)


# --- the same bits -------------------------------------------------------------------------------------------------

LIVELY = {"augment": {"rotate_deg": 20, "scale": 0.1, "shift": 0.1, "flip": 0.5}}


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path, tiny):
    tiny(drop_rate=0.3)
    training = data(40)
    models = [
        fit(settings(epochs=2, batch_size=8, seeds=[seed], **LIVELY), training, tmp_path, name=name)[0]
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


def test_a_run_that_was_killed_after_any_epoch_ends_in_the_same_bits(tmp_path, tiny):
    tiny(drop_rate=0.3)
    training, config = data(40), settings(epochs=4, batch_size=8, accumulation=2, **LIVELY)
    whole, history = fit(config, training, tmp_path, name="whole")

    class Killed(BaseException):
        pass

    for epoch in (1, 3, 4):

        def kill(record, epoch=epoch):
            if record.epoch == epoch:
                raise Killed

        with pytest.raises(Killed):
            fit(config, training, tmp_path, name=f"killed-{epoch}", on_epoch=kill)
        torch.rand(7)  # whatever else drew random numbers in between
        seen = []
        resumed, again = fit(config, training, tmp_path, name=f"killed-{epoch}", on_epoch=seen.append)
        assert [record.epoch for record in seen] == list(range(epoch, 5))  # the last one that was saved is told again
        assert torch.equal(weights(whole), weights(resumed))
        assert [(r.epoch, r.train_loss, r.score) for r in again] == [(r.epoch, r.train_loss, r.score) for r in history]


def test_a_state_that_is_cut_off_falls_back_to_the_epoch_before_and_says_so(tmp_path, tiny):
    training, config = data(16), settings(epochs=2, batch_size=8)
    whole, _ = fit(config, training, tmp_path)
    state = tmp_path / "state"
    for damaged in (state.read_bytes()[:1000], b""):
        for kept in (True, False):
            state.write_bytes(damaged)
            if not kept:
                state.with_name("state.previous").unlink()
            seen = []
            with pytest.warns(UserWarning, match="unreadable.*" + ("the epoch before" if kept else "starts anew")):
                again, history = fit(config, training, tmp_path, on_epoch=seen.append)
            assert [r.epoch for r in seen] == [1, 2]  # of the epoch before, the last is told again
            assert len(history) == 2 and torch.equal(weights(again), weights(whole))


@pytest.mark.parametrize("name", ["settings", "folds", "images"])
def test_a_state_of_another_training_is_refused_by_name(tmp_path, tiny, name):
    training, config = data(16), settings(epochs=1, batch_size=8)
    fit(config, training, tmp_path)
    other = {**IDENTITY, name: "other"}
    with pytest.raises(Mistakes, match=f"trained with other {name}"):
        fit(config, training, tmp_path, identity=other)


# --- watching ------------------------------------------------------------------------------------------------------


def test_nan_stops_with_epoch_step_learning_rate_and_images(tmp_path, monkeypatch):
    class Breaks(Tiny):
        n_calls = 0

        def forward(self, x):
            Breaks.n_calls += self.training
            logits = super().forward(x)
            return logits * (float("nan") if Breaks.n_calls == 7 and self.training else 1.0)

    monkeypatch.setattr(room, "build_model", lambda settings, n_classes, mode: Breaks(n_classes))
    config = settings(epochs=3, batch_size=10, lr=0.01, schedule={"name": "constant"})
    done = []
    with pytest.raises(TrainingDiverged) as caught:  # 4 steps an epoch: the seventh is step 3 of epoch 2
        fit(config, data(40), tmp_path, on_epoch=done.append)
    message = str(caught.value)
    assert "epoch 2, step 3 of 4" in message and "0.01" in message and message.count("image-") == 10
    assert [record.epoch for record in done] == [1]
    assert torch.load(tmp_path / "state", weights_only=True)["history"][-1]["epoch"] == 1  # the last good one


def test_scores_are_of_all_validation_rows_at_once(tmp_path, tiny):
    from sklearn.metrics import f1_score

    training, valid = data(60), np.arange(0, 60, 3)
    model, [record] = fit(settings(epochs=1, batch_size=8), training, tmp_path, valid=valid)
    probs = predict(model, training.task, training.images[valid], SPEC, CPU)
    targets = training.targets[valid].numpy()
    assert record.score == f1_score(targets, probs.argmax(1), average="macro", zero_division=0)
    assert record.valid_loss == pytest.approx(
        torch.nn.functional.nll_loss(torch.tensor(probs).log(), training.targets[valid]).item()
    )


def test_validation_rows_never_touch_the_weights(tmp_path):
    training = data(40)
    rows, valid = np.arange(0, 30), np.arange(30, 40)
    config = settings(epochs=2, batch_size=8)
    one, _ = fit(config, training, tmp_path, rows=rows, valid=valid, name="one")
    training.images[valid] = 0
    training.targets[valid] = 0
    other, _ = fit(config, training, tmp_path, rows=rows, valid=valid, name="other")
    assert torch.equal(weights(one), weights(other))  # running statistics of BatchNorm too


def test_nothing_reads_from_the_device_within_an_epoch(tmp_path, tiny, monkeypatch):
    """Reads (`.item()`, `.cpu()`, `bool(tensor)`, ...) may come once an epoch, never once a step."""
    reads = []
    for name in ("item", "cpu", "numpy", "tolist", "__bool__", "__float__", "__int__", "__index__"):
        original = getattr(torch.Tensor, name)

        def counted(self, *args, original=original, name=name, **kwargs):
            if sys._getframe(1).f_globals["__name__"] != "pipeline.feed":  # which only ever holds host memory
                reads.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)

    def n_reads(batch_size: int) -> int:
        reads.clear()
        fit(
            settings(epochs=1, batch_size=batch_size, optimizer={"name": "sgd"}),
            data(64),
            tmp_path,
            name=f"{batch_size}",
        )
        return len(reads)

    assert n_reads(32) == n_reads(4)  # 2 steps and 16


def test_the_loop_knows_neither_tracker_nor_tuner():
    source = Path(str(room.__file__)).read_text()
    assert "import mlflow" not in source and "import optuna" not in source and "tracking" not in source


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device; on the CPU a count of reads stands in for it"
)
def test_a_gpu_is_not_waited_for_within_an_epoch(tmp_path, tiny, monkeypatch):
    """torch itself raises on a synchronising call between the first forward pass and the end of the epoch."""
    forward = room.prepare

    def strict(*args):
        torch.cuda.set_sync_debug_mode("error")
        return forward(*args)

    monkeypatch.setattr(room, "prepare", strict)
    monkeypatch.setattr(torch.Tensor, "cpu", _relaxed(torch.Tensor.cpu))
    training, rows = data(64), np.arange(64)
    config = settings(epochs=1, batch_size=8, device="cuda")
    try:
        state = ResumeState(tmp_path / "s", IDENTITY)
        which = FoldRun(0, 1, 0)
        train_fold(training, rows, rows, which, config, Precision(), torch.device("cuda"), state, lambda _: None)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _relaxed(read):
    def relaxed(self, *args, **kwargs):
        torch.cuda.set_sync_debug_mode("default")  # the epoch's one look at the device
        return read(self, *args, **kwargs)

    return relaxed


# --- what is around the plain loop ---------------------------------------------------------------------------------


def test_mixing_and_accumulation_do_not_see_each_other(tmp_path, tiny):
    """Partners are neighbours in the effective batch, wherever it is cut."""
    lively = {"augment": {"mixup": 0.4, "cutmix": 1.0, "flip": 0.5}, "epochs": 2, "lr": 0.01}
    whole, _ = fit(settings(batch_size=32, **lively), data(77), tmp_path, name="whole")
    parts, _ = fit(settings(batch_size=8, accumulation=4, **lively), data(77), tmp_path, name="parts")
    plain, _ = fit(settings(batch_size=32, epochs=2, lr=0.01), data(77), tmp_path, name="plain")
    moved = (weights(whole) - weights(plain)).abs().max()
    assert moved > 1e-3 and (weights(whole) - weights(parts)).abs().max() < 1e-3 * moved


def test_mixing_stops_before_the_end(tmp_path, tiny, monkeypatch):
    seen = []
    original = room.prepare
    monkeypatch.setattr(
        room, "prepare", lambda window, *rest: seen.append(window.mix is not None) or original(window, *rest)
    )
    fit(settings(batch_size=16, epochs=3, augment={"mixup": 0.4, "mix_stop_epochs": 1}), data(32), tmp_path)
    assert seen == [True] * 4 + [False] * 2


def test_a_frozen_network_learns_in_its_head_alone_and_then_everywhere(tmp_path):
    def learned(epochs: int) -> set[str]:
        config = settings(epochs=3, freeze_epochs=2, batch_size=16, schedule={"name": "constant"})
        torch.manual_seed(room.mixed_seed(0, 0))
        before = room.build_model(config.model, 4, "L").state_dict()
        states = []

        def after(record):
            if record.epoch == epochs:
                states.append(torch.load(tmp_path / f"{epochs}", weights_only=True)["model"])

        fit(config, data(32), tmp_path, name=f"{epochs}", on_epoch=after)
        return {name for name, value in states[0].items() if not torch.equal(value, before[name])}

    assert learned(2) == {"fc.weight", "fc.bias"}  # running statistics of BatchNorm stand still, too
    assert {"conv1.0.weight", "fc.weight"} < learned(3)


def test_a_balanced_sampler_shows_rare_classes_as_often(tiny):
    targets = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    rows = np.arange(1000)
    for power, expected in ((1.0, [1 / 3] * 3), (0.5, np.sqrt([900, 90, 10]) / np.sqrt([900, 90, 10]).sum())):
        sampler = Balanced(name="balanced", power=power)
        orders = [room.epoch_order(rows, targets, sampler, np.random.default_rng(i)) for i in range(20)]
        shares = np.bincount(targets[np.concatenate(orders)].numpy()) / 20_000
        assert shares == pytest.approx(expected, abs=0.02) and len(orders[0]) == 1000
    assert sorted(room.epoch_order(rows, targets, Shuffle(), np.random.default_rng(0)).tolist()) == rows.tolist()


def test_best_keeps_the_weights_of_the_best_epoch(tmp_path):
    rows, valid = np.arange(0, 30), np.arange(30, 60)
    # which epoch is the best depends on the machine's arithmetic: the first rate with one before the last serves
    for lr in (0.01, 0.03, 0.1, 0.3):
        config = settings(epochs=6, batch_size=8, lr=lr, select="best", schedule={"name": "constant"})
        model, history = fit(config, data(60), tmp_path, rows=rows, valid=valid, name=f"lr{lr}")
        best = max(history, key=lambda r: r.score)
        if best.epoch < 6:
            break
    shorter = settings(epochs=best.epoch, batch_size=8, lr=lr, schedule={"name": "constant"})
    until, _ = fit(shorter, data(60), tmp_path, rows=rows, valid=valid, name="shorter")
    assert best.epoch < 6 and torch.equal(weights(model), weights(until))


def test_early_stopping_ends_the_fold_and_says_so(tmp_path, tiny):
    config = settings(epochs=50, batch_size=16, lr=1e-9, early_stopping=3, schedule={"name": "constant"})
    seen = []
    _, history = fit(config, data(32), tmp_path, on_epoch=seen.append)
    assert len(history) == 4 and [r.is_last for r in seen] == [False, False, False, True]
    again = []
    fit(config, data(32), tmp_path, on_epoch=again.append)  # a killed one that had stopped does not go on
    assert [r.epoch for r in again] == [4]


@pytest.mark.parametrize("select", ["ema", "swa"])
def test_averages_are_what_is_validated_and_kept(tmp_path, tiny, select):
    config = settings(
        epochs=4, batch_size=8, lr=0.05, select=select, swa_start=0.5, ema_decay=0.9, schedule={"name": "constant"}
    )
    model, history = fit(config, data(40), tmp_path)
    outputs = predict(model, data(40).task, data(40).images, SPEC, CPU)
    assert history[-1].score == score("macro_f1", data(40).targets.numpy(), outputs)
    if select == "swa":
        ends = [fit(settings(epochs=e, batch_size=8, lr=0.05, schedule={"name": "constant"}), data(40), tmp_path, name=f"e{e}")[0]
                for e in (3, 4)]  # fmt: skip
        assert torch.allclose(weights(model), (weights(ends[0]) + weights(ends[1])) / 2, atol=1e-6)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_out_of_memory_says_what_to_set_next(tmp_path, monkeypatch, where):
    class Full(Tiny):
        def forward(self, x):
            if where == "forward":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return super().forward(x)

    def no_room(*args, **kwargs):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(room, "build_model", lambda settings, n_classes, mode: Full(n_classes))
    if where == "backward":
        monkeypatch.setattr(torch.Tensor, "backward", no_room)
    with pytest.raises(Stopped, match=r"train\.batch_size=12 train\.accumulation=6"):
        fit(settings(epochs=1, batch_size=24, accumulation=3), data(48), tmp_path)


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path, monkeypatch):
    class Broken(Tiny):
        def forward(self, x):
            raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(room, "build_model", lambda settings, n_classes, mode: Broken(n_classes))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fit(settings(epochs=1), data(8), tmp_path)


def test_bf16_learns_and_keeps_weights_in_full_precision(tmp_path, tiny):
    config = settings(epochs=40, batch_size=16, lr=5e-3, schedule={"name": "constant"}, optimizer={"weight_decay": 0.0})
    model, history = fit(config, data(32), tmp_path, precision=Precision("bf16"))
    assert history[-1].train_loss < 0.3 * history[0].train_loss
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_fp16_with_its_scaler_comes_near_full_precision(tmp_path, tiny):
    config, rows = settings(epochs=12, batch_size=8, lr=3e-3), data(32)
    full, _ = fit(config, rows, tmp_path, name="full")
    model, history = fit(config, rows, tmp_path, name="half", precision=Precision("fp16"))
    assert history[-1].train_loss < 0.6 * history[0].train_loss and {p.dtype for p in model.parameters()} == {
        torch.float32
    }
    apart = (weights(model) - weights(full)).abs().mean() / weights(full).abs().mean()
    assert 0 < apart < 0.1  # other arithmetic, the same training


def test_a_killed_fp16_run_goes_on_with_the_scale_it_had(tmp_path, tiny, monkeypatch):
    # a scale that overflows every few steps, so that which steps are left out depends on what it was
    jumpy = functools.partial(torch.amp.GradScaler, init_scale=2.0**20, growth_interval=3)
    monkeypatch.setattr(torch.amp, "GradScaler", jumpy)
    config, half = settings(epochs=4, batch_size=8), Precision("fp16")
    whole, _ = fit(config, data(32), tmp_path, name="whole", precision=half)

    def killed(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, data(32), tmp_path, name="cut", on_epoch=killed, precision=half)
    again, _ = fit(config, data(32), tmp_path, name="cut", precision=half)
    assert torch.equal(weights(again), weights(whole))


def test_a_compiled_model_trains_to_the_same_weights(tmp_path, tiny):
    """`aot_eager`: dynamo and autograd's own tracing, all of torch.compile but the code generation."""
    plain, _ = fit(settings(epochs=3, batch_size=8), data(32), tmp_path, name="plain")
    compiled, _ = fit(settings(epochs=3, batch_size=8, compile="aot_eager"), data(32), tmp_path, name="compiled")
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-4, atol=1e-6)
    assert list(compiled.state_dict()) == list(plain.state_dict())  # a checkpoint has no names of the compiler's


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's own backend needs a C++ compiler")
def test_inductor_trains_to_the_same_weights(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    plain, _ = fit(settings(epochs=2, batch_size=8), data(20), tmp_path, name="plain")  # the last batch is shorter
    config = settings(epochs=2, batch_size=8, compile="inductor")
    compiled, _ = fit(config, data(20), tmp_path, name="compiled")
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-3, atol=1e-5)

    def killed(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, data(20), tmp_path, name="cut", on_epoch=killed)
    torch._dynamo.reset()  # as a new process would start
    again, _ = fit(config, data(20), tmp_path, name="cut")
    assert torch.equal(weights(again), weights(compiled))


def test_other_labels_to_train_on_change_the_weights_and_not_what_is_validated(tmp_path):
    """`train.label_bounds`: the loss sees `train_targets`, the score `targets`."""
    config = settings(epochs=40, batch_size=16, lr=5e-3, schedule={"name": "constant"}, optimizer={"weight_decay": 0.0})
    own = data(32, 2)
    _, history = fit(config, dataclasses.replace(own, train_targets=1 - own.targets), tmp_path)
    assert history[-1].train_loss < 0.05 and history[-1].score == 0.0  # learned the opposite, judged by the truth


def test_best_weights_that_were_cut_off_make_the_fold_start_anew_and_say_so(tmp_path, tiny):
    config = settings(epochs=4, batch_size=8, select="best")
    whole, _ = fit(config, data(32), tmp_path, name="whole")

    def killed(record):
        if record.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, data(32), tmp_path, name="cut", on_epoch=killed)
    best = tmp_path / "cut.best"
    best.write_bytes(best.read_bytes()[:500])
    with pytest.warns(UserWarning, match="cut.best is unreadable .* this fold starts anew"):
        again, history = fit(config, data(32), tmp_path, name="cut")
    assert torch.equal(weights(again), weights(whole)) and len(history) == 4


def test_prediction_goes_on_with_smaller_batches_where_the_memory_does_not_suffice():
    class Hungry(torch.nn.Module):
        def forward(self, x):
            if len(x) > 20:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return x.flatten(1)[:, :4]

    task, images = data(8).task, data(50).images
    assert predict(Hungry(), task, images, SPEC, CPU).shape == (50, 4)

"""The training loop, whole: everything that happens to the weights happens in `train_fold`, read from top to bottom.

In: pixels and targets of all training rows, which rows this fold trains on and which it validates on, settings.
Out: the trained model and one `EpochRecord` an epoch. It knows no tracker and no tuner: `on_epoch` is the only seam.
After each epoch the whole state goes to a file (`resume`), so that a killed run goes on from there and ends in the same
bits; that works because nothing random in here has a memory: batch order, augmentation and dropout are functions of
(seed, fold, epoch, image), and the learning rate is one of the step and the scores so far.
"""

import resource
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.augment import Normalise, mix
from pipeline.average import Average, ema_share
from pipeline.config.data import Preprocessing
from pipeline.config.metric import Metric, parse_metric
from pipeline.config.mistakes import Stopped
from pipeline.config.settings import Experiment
from pipeline.config.training import Balanced, Shuffle, Train
from pipeline.feed import Window, feed, window_rows
from pipeline.losses import build_loss
from pipeline.metrics import score
from pipeline.model import build_model, freeze_but_head, head_parameters
from pipeline.optim import build_optimizer, clip, group_lrs, lr_factor, set_lr
from pipeline.precision import Precision
from pipeline.predict import predict
from pipeline.records import EpochRecord, FoldRun, best_epoch, is_over
from pipeline.resume import ResumeState
from pipeline.task import Task


@dataclass(frozen=True)
class TrainingData:
    """All training rows of a competition, in the order of its table."""

    images: torch.Tensor  # (N, H, W, channels) uint8, through `preprocessing`: what is validated
    pixels: Callable[[int], np.ndarray]  # row -> its whole image (h, w, 1 or 3) uint8: what is augmented
    targets: torch.Tensor  # (N,) int64 class indices; multilabel (N, C) float 0 and 1; regression (N,) float
    train_targets: torch.Tensor  # likewise, by the label rules of `train.label_bounds`: what is trained on
    image_ids: np.ndarray  # (N,) str
    keys: np.ndarray  # (N,) uint64, from augment.image_keys
    task: Task
    metric: str | Metric
    preprocessing: Preprocessing
    more_metrics: tuple[str, ...] = ()  # scored beside `metric` after each epoch


@dataclass(frozen=True)
class Trained:
    """What a fold came to. outputs: of the validation rows by exactly these weights; None where it is not at hand."""

    model: torch.nn.Module
    task: Task
    history: list[EpochRecord]
    outputs: np.ndarray | None


REMEDY = "Try a lower train.lr, a longer train.schedule.warmup_epochs or a smaller train.clip_norm."


class TrainingDiverged(Stopped):
    """The loss or a gradient became NaN or infinite; the message says where and what to try."""


def train_fold(
    data: TrainingData,
    train_rows: np.ndarray,
    valid_rows: np.ndarray,
    which: FoldRun,
    settings: Experiment,
    precision: Precision,
    device: torch.device,
    state: ResumeState,
    on_epoch: Callable[[EpochRecord], None],
    on_step: Callable[[int, int], None] = lambda epoch, share: None,
) -> Trained:
    """Trains one model on `train_rows` and watches it on `valid_rows` (both: row indices into `data`).

    on_step: told the epoch and how much of it is done, in percent. Raises `TrainingDiverged`, or `Stopped` where the
    memory does not suffice.
    """
    config, seed, fold = settings.train, which.seed, which.number
    metric = parse_metric(data.metric, data.task.kind, data.task.classes)
    targets = data.train_targets
    task = data.task.fitted(targets[train_rows])
    # Every fold starts from weights of its own, the same ones each time it is run.
    torch.manual_seed(mixed_seed(seed, fold))
    model = build_model(settings.model, task.n_logits, data.preprocessing.mode)
    model = model.to(device, memory_format=precision.memory_format)  # ty: ignore[no-matching-overload]
    # dynamic=False: else the kernels, and so the bits, depend on which batch sizes came before a kill
    forward = model if config.compile == "off" else torch.compile(model, backend=config.compile, dynamic=False)
    head = head_parameters(model)
    loss_function = build_loss(config, task, targets[train_rows])
    optimizer = build_optimizer(model, head, config)
    average = Average(model) if config.select in ("ema", "swa") else None
    # fp16 underflows where fp32 does not, so gradients are scaled up for the backward pass; a no-op otherwise
    scaler = torch.amp.GradScaler(device.type, enabled=precision.dtype is torch.float16)
    normalise = Normalise(data.preprocessing, device, precision.channels_last)
    max_norm = float("inf") if config.clip_norm == "off" else config.clip_norm
    n_steps = len(window_rows(train_rows, config.batch_size, config.accumulation))
    swa_from = int(config.swa_start * config.epochs)  # epochs, counted from 0, whose weights join the mean

    outputs = None
    history = state.restore(device, model, optimizer, scaler, average)  # empty, or a killed run's epochs
    if history:
        on_epoch(history[-1])  # the kill may have come between saving this epoch and telling of it

    for epoch in range(len(history), config.epochs):
        if is_over(history, config, metric):
            break
        started = time.perf_counter()
        torch.manual_seed(mixed_seed(seed, fold, epoch))  # dropout; a resumed epoch repeats its own numbers
        # A new order every epoch, or the model would meet the same batches again and learn their company.
        rng = np.random.default_rng((seed, fold, epoch))
        windows = window_rows(epoch_order(train_rows, targets, config.sampler, rng), config.batch_size,
                              config.accumulation)  # fmt: skip
        # Losses and norms stay on the device until the epoch is over: reading one (`.item()`) would make the host wait
        # for the device at every step, and the device then wait for the host.
        losses = torch.zeros(n_steps, device=device)
        norms = torch.zeros(n_steps, device=device)
        factors = [
            lr_factor(config.schedule, epoch * n_steps + step, n_steps, config.epochs, [r.score for r in history],
                      metric)
            for step in range(n_steps)
        ]  # fmt: skip

        model.train()  # dropout on, BatchNorm by the statistics of the batch
        freeze_but_head(model, head, frozen=epoch < config.freeze_epochs)
        mixing = epoch < config.epochs - settings.augment.mix_stop_epochs
        fed = feed(windows, data.images, data.pixels, data.keys, seed, epoch, settings.augment, data.preprocessing,
                   device, mixing)  # fmt: skip
        for step, window in enumerate(fed):
            set_lr(optimizer, factors[step])
            for part in window.parts():
                images, following, mixed, own = prepare(window, part, normalise, device)
                with torch.autocast(device.type, precision.dtype, precision.is_mixed):
                    logits = forward(images)  # (B, n_logits), no softmax: the loss does that stably
                logits = logits.float()  # and in full precision, where sums of exponentials need it
                loss = loss_function(logits, to_device(targets[window.rows[part]], device))  # (B,), one value a row
                if mixed:  # both labels count, by their shares of the image
                    loss = own * loss + (1 - own) * loss_function(logits, to_device(targets[following], device))
                # Divided by the rows of the ACTUAL window, the last and shorter one too: then accumulation changes
                # memory and nothing else. Dividing by the nominal count would shrink the last step; not dividing at
                # all would make `accumulation` a hidden factor of the learning rate.
                loss = loss.sum() / len(window.rows)
                scaler.scale(loss).backward()  # adds to .grad, which is what makes accumulation work
                losses[step] += loss.detach()  # detached, or the graph of every step would stay in memory
            # One bad batch may not throw the weights far away. Clipped once, on the whole window's gradient.
            scaler.unscale_(optimizer)
            norms[step] = clip(optimizer, max_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)  # forget this window; None is cheaper than a tensor of zeros
            if average and config.select == "ema":
                average.update(model, ema_share(epoch * n_steps + step + 1, config.ema_decay))
            on_step(epoch + 1, 100 * (step + 1) // n_steps)

        # The epoch's one look at the device. A NaN has spoilt the weights by now, but they are saved only further down.
        losses, norms = losses.cpu().double(), norms.cpu().double()
        where = f"fold {fold}, epoch {epoch + 1}"
        stop_if_diverged(losses, norms, where, config.lr * np.array(factors), data.image_ids, windows, precision)
        trained = time.perf_counter()
        if average and config.select == "swa" and epoch >= swa_from:
            average.update(model, 1 / (epoch - swa_from + 1))

        watched = average.module if average and (config.select == "ema" or epoch >= swa_from) else model
        outputs = predict(watched, task, data.images[valid_rows], data.preprocessing, device)  # eval, inference_mode
        if not np.isfinite(outputs).all():
            raise TrainingDiverged(f"{where}: predictions are not finite after the last step. {REMEDY}")
        truth = data.targets[valid_rows].numpy()
        sizes = torch.tensor([len(rows) for rows, _ in windows])
        record = EpochRecord(
            fold=which.number,
            n_folds=which.n_folds,
            seed=which.seed,
            epoch=epoch + 1,
            epochs=config.epochs,
            train_loss=float((losses * sizes).sum() / len(train_rows)),
            valid_loss=score("rmse" if task.kind == "regression" else "log_loss", truth, outputs, task.kind),
            score=score(metric, truth, outputs, task.kind),  # all rows at once; a mean over batches is another
            lr=config.lr * factors[0],
            grad_norm=float(norms[norms.isfinite()].mean()),
            images_per_s=len(train_rows) / (trained - started),
            seconds=time.perf_counter() - started,
            lrs=group_lrs(optimizer, factors[0]),
            more_scores={
                name: score(parse_metric(name, task.kind, task.classes), truth, outputs, task.kind)
                for name in data.more_metrics
            },
            memory_mb=memory_mb(device),
        )
        history.append(record)
        record = history[-1] = replace(record, is_last=epoch + 1 == config.epochs or is_over(history, config, metric))
        if config.select == "best" and best_epoch(history, metric) == epoch + 1:
            state.keep_best(model)
        state.save(history, model, optimizer, scaler, average)
        on_epoch(record)

    if config.select == "best":
        state.load_best(model)
    chosen = average.module if average else model
    was_last = config.select != "best" or best_epoch(history, metric) == len(history)
    return Trained(chosen, task, history, outputs if was_last else None)


def prepare(
    window: Window, part: slice, normalise: Normalise, device: torch.device
) -> tuple[torch.Tensor, np.ndarray, bool, torch.Tensor]:
    """One micro-batch on the device: (images (B, C, H, W), rows it is mixed with, whether it is, own share (B,)).

    Mixing partners are neighbours in the window, wherever it is cut into micro-batches, so that accumulation changes
    nothing here either.
    """
    n = len(window.rows)
    places = np.arange(part.start, part.stop + (window.mix is not None)) % n
    wanted = slice(part.start, part.stop) if len(places) == part.stop - part.start else places
    images = normalise(to_device(window.images[wanted], device))
    following = window.rows[places[1:]]
    if window.mix is None:
        return images, following, False, images.new_ones(())
    how = window.mix.part(part, device)
    images, own = mix(images[:-1], images[1:], how)
    return images, following, True, own


def epoch_order(
    rows: np.ndarray, targets: torch.Tensor, sampler: Shuffle | Balanced, rng: np.random.Generator
) -> np.ndarray:
    """As many rows as there are: each once, or drawn with replacement so that rare classes come more often."""
    if not isinstance(sampler, Balanced):
        return rng.permutation(rows)
    classes = targets[rows].numpy()
    weights = np.bincount(classes)[classes] ** -float(sampler.power)
    return rng.choice(rows, size=len(rows), p=weights / weights.sum())


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers, so that (seed 1, fold 2) and (seed 2, fold 1) have nothing in common."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def memory_mb(device: torch.device) -> float:
    """The most that was used so far, in MB of 10^6 bytes: of the GPU by tensors, or of the memory by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Without waiting for the copy: from pinned memory a GPU fetches by itself while the host goes on."""
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def stop_if_diverged(
    losses: torch.Tensor,
    norms: torch.Tensor,
    where: str,
    lrs: np.ndarray,
    image_ids: np.ndarray,
    windows: list[tuple[np.ndarray, list[int]]],
    precision: Precision,
) -> None:
    """Raises `TrainingDiverged` at the first step whose loss or gradient is not finite. lrs: (n_steps,).

    In fp16 a gradient that overflowed was left out by the scaler, which is its way to find the scale; unless all did.
    """
    scaled = precision.dtype is torch.float16
    bad = ~losses.isfinite() if scaled and norms.isfinite().any() else ~(losses.isfinite() & norms.isfinite())
    if not bad.any():
        return
    step = int(bad.nonzero()[0])
    what = f"the loss is {losses[step]:.4g}" if not losses[step].isfinite() else "the loss is finite, its gradient not"
    ids = image_ids[windows[step][0]]
    mixed = "train.precision=fp32 first: 16 bits may not do for this model. Else " if precision.is_mixed else ""
    raise TrainingDiverged(
        f"{where}, step {step + 1} of {len(windows)}: {what} (gradient norm {norms[step]:.4g}, learning rate "
        f"{lrs[step]:.3g}). Images of that step: {', '.join(ids[:64])}"
        f"{f' and {len(ids) - 64} more' if len(ids) > 64 else ''}. {REMEDY.replace('Try ', f'Try {mixed}', 1)}"
    )


@contextmanager
def out_of_memory_explained(config: Train) -> Generator[None]:
    """Around `train_fold`: turns torch's out-of-memory errors, of a GPU or of the host, into what to set next."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        smaller = max(config.batch_size // 2, 1)
        more = -(-config.batch_size * config.accumulation // smaller)
        raise Stopped(
            f"out of memory with train.batch_size={config.batch_size} and train.accumulation={config.accumulation}. "
            f"Try train.batch_size={smaller} train.accumulation={more}: as many images a step, so the learning rate "
            f"stays right (BatchNorm sees smaller batches). Then train.precision=auto, or a smaller images.px."
        ) from error

"""The training loop, whole: everything that happens to the weights happens in `train_fold`, read from top to bottom.

In: images and targets of all training rows, which rows this fold trains on and which it validates on, settings.
Out: the trained model and one `EpochRecord` an epoch. It knows no tracker and no tuner: `on_epoch` is the only seam.
After each epoch the whole state goes to `state_path`, so that a killed run goes on from there and ends in the same
bits; that works because nothing random in here has a memory: batch order, augmentation and dropout are functions of
(seed, fold, epoch, image).
"""

import pickle
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.atomic import atomic
from pipeline.augment import Normalise, augment, draws
from pipeline.config.data import Preprocessing
from pipeline.config.mistakes import Mistake, Mistakes, Stopped
from pipeline.config.settings import Experiment
from pipeline.losses import build_loss
from pipeline.metrics import score
from pipeline.model import build_model
from pipeline.optim import build_optimizer, build_scheduler
from pipeline.predict import predict_probs


@dataclass(frozen=True)
class TrainingData:
    """All training rows of a competition, in the order of its table."""

    images: torch.Tensor  # (N, H, W, channels) uint8, through `preprocessing`
    targets: torch.Tensor  # (N,) int64 class indices, as the competition counts them: what is validated
    train_targets: torch.Tensor  # (N,) likewise, by the label rules of `train.label_bounds`: what is trained on
    image_ids: np.ndarray  # (N,) str
    keys: np.ndarray  # (N,) uint64, from augment.image_keys
    classes: tuple[str, ...]
    metric: str
    preprocessing: Preprocessing


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch of one fold came to; epochs and steps count from 1."""

    fold: int
    epoch: int
    epochs: int
    train_loss: float  # mean over the rows, as trained on (augmented, smoothed)
    valid_loss: float  # mean cross entropy over the validation rows
    score: float  # the competition's metric over all validation rows
    lr: float  # of the epoch's first step, for one effective batch
    grad_norm: float  # mean over the steps, before clipping
    images_per_s: float
    seconds: float


REMEDY = "Try a lower train.lr, a longer train.schedule.warmup_epochs or a smaller train.clip_norm."


class TrainingDiverged(Stopped):
    """The loss or a gradient became NaN or infinite; the message says where and what to try."""


def train_fold(
    data: TrainingData,
    train_rows: np.ndarray,
    valid_rows: np.ndarray,
    fold: int,
    settings: Experiment,
    device: torch.device,
    state_path: Path,
    identity: dict[str, str],
    on_epoch: Callable[[EpochRecord], None],
) -> tuple[torch.nn.Module, list[EpochRecord]]:
    """Trains one model on `train_rows` and watches it on `valid_rows` (both: row indices into `data`).

    identity: hashes of settings, folds and images; a state file with others is refused. Raises `TrainingDiverged`.
    """
    config = settings.train
    # Every fold starts from weights of its own, the same ones each time it is run.
    torch.manual_seed(mixed_seed(config.seed, fold))
    model = build_model(settings.model, len(data.classes), data.preprocessing.mode).to(device)
    loss_function = build_loss(config.loss)
    optimizer = build_optimizer(model, config)
    n_steps = len(effective_batches(train_rows, config.batch_size, config.accumulation))
    scheduler = build_scheduler(optimizer, config, n_steps)
    normalise = Normalise(data.preprocessing, device)
    max_norm = float("inf") if config.clip_norm == "off" else config.clip_norm
    history = restore(state_path, identity, device, model, optimizer, scheduler)  # empty, or a killed run's epochs
    if history:
        on_epoch(history[-1])  # the kill may have come between saving this epoch and telling of it

    for epoch in range(len(history), config.epochs):
        started = time.perf_counter()
        torch.manual_seed(mixed_seed(config.seed, fold, epoch))  # dropout; a resumed epoch repeats its own numbers
        # A new order every epoch, or the model would meet the same batches again and learn their company.
        order = np.random.default_rng((config.seed, fold, epoch)).permutation(train_rows)
        windows = effective_batches(order, config.batch_size, config.accumulation)
        window_sizes = torch.tensor([sum(len(rows) for rows in batches) for batches in windows])
        lr = float(scheduler.get_last_lr()[0])
        # Losses and norms stay on the device until the epoch is over: reading one (`.item()`) would make the host wait
        # for the device at every step, and the device then wait for the host.
        losses = torch.zeros(n_steps, device=device)
        norms = torch.zeros(n_steps, device=device)

        model.train()  # dropout on, BatchNorm by the statistics of the batch
        for step, batches in enumerate(windows):
            for rows in batches:
                uniform = torch.from_numpy(draws(config.seed, epoch, data.keys[rows]))
                images = augment(to_device(data.images[rows], device), to_device(uniform, device), settings.augment)
                logits = model(normalise(images))  # (B, C), one score a class, no softmax: the loss does that stably
                loss = loss_function(logits, to_device(data.train_targets[rows], device))  # (B,), one value a row
                # Divided by the rows of the ACTUAL window, the last and shorter one too: then accumulation changes
                # memory and nothing else. Dividing by the nominal count would shrink the last step; not dividing at
                # all would make `accumulation` a hidden factor of the learning rate.
                loss = loss.sum() / window_sizes[step]
                loss.backward()  # adds to .grad, which is what makes accumulation work
                losses[step] += loss.detach()  # detached, or the graph of every step would stay in memory
            # One bad batch may not throw the weights far away. Clipped once, on the whole window's gradient.
            norms[step] = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)  # forget this window; None is cheaper than a tensor of zeros
            scheduler.step()  # after the optimizer, once a step: torch warns about the other order, and is right

        # The epoch's one look at the device. A NaN has spoilt the weights by now, but they are saved only further down.
        losses, norms = losses.cpu().double(), norms.cpu().double()
        stop_if_diverged(losses, norms, fold, epoch, lr, data.image_ids, windows)
        trained = time.perf_counter()

        probs = predict_probs(model, data.images[valid_rows], data.preprocessing, device)  # eval() and inference_mode()
        if not np.isfinite(probs).all():
            raise TrainingDiverged(
                f"fold {fold}, epoch {epoch + 1}: predictions are not finite after the last step. {REMEDY}"
            )
        targets = data.targets[valid_rows].numpy()
        record = EpochRecord(
            fold=fold,
            epoch=epoch + 1,
            epochs=config.epochs,
            train_loss=float((losses * window_sizes).sum() / len(order)),
            valid_loss=float(-np.log(np.maximum(probs[np.arange(len(targets)), targets], 1e-12)).mean()),
            score=score(data.metric, targets, probs),  # from all rows at once; a mean over batches is another number
            lr=lr,
            grad_norm=float(norms.mean()),
            images_per_s=len(order) / (trained - started),
            seconds=time.perf_counter() - started,
        )
        history.append(record)
        save(state_path, identity, history, model, optimizer, scheduler)
        on_epoch(record)
    return model, history


def effective_batches(rows: np.ndarray, batch_size: int, accumulation: int) -> list[list[np.ndarray]]:
    """`rows` cut into windows (one optimizer step each) of at most `accumulation` batches; the last may be shorter.

    A last batch of one row joins the batch before it: BatchNorm cannot normalise over a single value.
    """
    starts = list(range(0, len(rows), batch_size))
    if len(starts) > 1 and len(rows) - starts[-1] == 1:
        starts.pop()
    batches = np.split(rows, starts[1:])
    return [batches[i : i + accumulation] for i in range(0, len(batches), accumulation)]


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers, so that (seed 1, fold 2) and (seed 2, fold 1) have nothing in common."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Without waiting for the copy: from pinned memory a GPU fetches by itself while the host goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def stop_if_diverged(
    losses: torch.Tensor, norms: torch.Tensor, fold: int, epoch: int, lr: float, image_ids: np.ndarray, windows: list
) -> None:
    """Raises `TrainingDiverged` at the first step whose loss or gradient is not finite."""
    bad = ~(losses.isfinite() & norms.isfinite())
    if not bad.any():
        return
    step = int(bad.nonzero()[0])
    what = "loss" if not losses[step].isfinite() else "gradient"
    ids = image_ids[np.concatenate(windows[step])]
    raise TrainingDiverged(
        f"fold {fold}, epoch {epoch + 1}, step {step + 1} of {len(windows)}: the {what} is {losses[step]:.4g} with a "
        f"gradient norm of {norms[step]:.4g} (learning rate {lr:.3g} at the start of the epoch). "
        f"Images of that step: {', '.join(ids[:8])}{', ...' if len(ids) > 8 else ''}. "
        f"{REMEDY}"
    )


def save(path: Path, identity: dict[str, str], history: list[EpochRecord], model, optimizer, scheduler) -> None:
    """The whole state after an epoch, in place of the last one."""
    state = {
        "identity": identity,
        "history": [asdict(record) for record in history],
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    with atomic(path) as temporary:
        torch.save(state, temporary)


def restore(
    path: Path, identity: dict[str, str], device: torch.device, model, optimizer, scheduler
) -> list[EpochRecord]:
    """Loads a killed run's state in place and returns the epochs it had finished; none where there is no state."""
    if not path.is_file():
        return []
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:  # cut off by a full disk or by hand
        warnings.warn(f"{path} is unreadable ({type(error).__name__}): this fold starts anew", stacklevel=2)
        return []
    for name, value in identity.items():
        if (found := state["identity"].get(name)) != value:
            message = f"was trained with other {name} ({found}, not {value})"
            valid = "valid: a state of the same settings, folds and images; move the file away to start this fold anew"
            raise Mistakes([Mistake(str(path), message, valid, "resume")])
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    return [EpochRecord(**record) for record in state["history"]]

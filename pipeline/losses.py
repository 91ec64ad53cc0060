"""Loss functions, by the name in the settings.

Each takes logits (B, n_logits) and targets and returns one value a row, (B,): the loop divides by the rows of the whole
effective batch, which no loss can know, so a loss must not average over rows on its own. targets: (B,) class indices;
multilabel (B, C) of 0 and 1; regression (B,) numbers as the organisers give them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from pipeline.config.losses import (
    BalancedSoftmax,
    BinaryCrossEntropy,
    Corn,
    CrossEntropy,
    EffectiveNumber,
    Focal,
    GeneralizedCrossEntropy,
    GivenWeights,
    Huber,
    InverseFrequency,
    LogitAdjustment,
    RegressionLoss,
    SoftF1,
    SymmetricCrossEntropy,
)
from pipeline.config.training import Train
from pipeline.task import Task

TINY = 1e-7  # of a probability: below it a row counts as learnt
Rows = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def build_loss(settings: Train, task: Task, targets: torch.Tensor) -> Rows:
    """targets: of the rows that are trained on, all of them; class weights and priors are counted there.

    With one head a part, the sum over the heads: as a product of probabilities, which is what is predicted.
    """
    if task.link != "parts":
        return _one_head(settings, task, targets, len(task.classes))
    tables = [torch.tensor(values) for values in task.parts]  # (C,) each
    heads = [
        _one_head(settings, task, table[targets], size) for table, size in zip(tables, task.part_sizes, strict=True)
    ]

    def rows(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        split = zip(heads, logits.split(task.part_sizes, dim=1), tables, strict=True)
        return torch.stack([head(part, table.to(targets.device)[targets]) for head, part, table in split]).sum(dim=0)

    return rows


def class_weights(settings: Train, task: Task, counts: torch.Tensor) -> torch.Tensor | None:
    """(C,) with a mean over the training rows of 1, so that they move the balance and not the learning rate.

    Effective number: Cui et al. 2019, arXiv 1901.05555. A class without training rows weighs nothing.
    """
    rule = settings.class_weights
    if isinstance(rule, InverseFrequency):
        weights = counts.clamp_min(1).double() ** -rule.power
    elif isinstance(rule, EffectiveNumber):
        weights = (1 - rule.beta) / (1 - rule.beta ** counts.clamp_min(1).double())
    elif isinstance(rule, GivenWeights):
        weights = torch.tensor([rule.weights[name] for name in task.classes], dtype=torch.float64)
    else:
        return None
    weights = weights * (counts > 0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def _one_head(settings: Train, task: Task, targets: torch.Tensor, n_classes: int) -> Rows:
    rows = _of_rows(settings, task, targets, n_classes)
    if task.kind in ("multilabel", "regression"):
        return rows
    weights = class_weights(settings, task, torch.bincount(targets, minlength=n_classes))
    if weights is None:
        return rows
    return lambda logits, targets: rows(logits, targets) * weights.to(logits.device)[targets]


def _of_rows(settings: Train, task: Task, targets: torch.Tensor, n_classes: int) -> Rows:
    loss = settings.loss
    if isinstance(loss, CrossEntropy):  # smoothing: Szegedy et al. 2016, arXiv 1512.00567
        return lambda x, y: F.cross_entropy(x, y, reduction="none", label_smoothing=loss.label_smoothing)
    if isinstance(loss, Focal):
        return lambda x, y: focal(x, y, loss.gamma, loss.label_smoothing)
    if isinstance(loss, BinaryCrossEntropy):
        return lambda x, y: one_vs_all(x, y, loss.label_smoothing)
    if isinstance(loss, LogitAdjustment | BalancedSoftmax):
        # Menon et al. 2021, arXiv 2007.07314; with tau = 1 the balanced softmax of Ren et al. 2020, arXiv 2007.10740
        counts = torch.bincount(targets, minlength=n_classes).double()
        tau = loss.tau if isinstance(loss, LogitAdjustment) else 1.0
        # a class without rows gets no shift: taken for very rare, it would be as probable as any class afterwards
        shift = (tau * torch.where(counts > 0, counts / counts.sum(), 1.0).log()).float()
        smoothing = loss.label_smoothing
        return lambda x, y: F.cross_entropy(x + shift.to(x.device), y, reduction="none", label_smoothing=smoothing)
    if isinstance(loss, SoftF1):
        absent = targets.sum(dim=0) == 0 if task.kind == "multilabel" else None
        return lambda x, y: soft_f1(x, y, absent)
    if isinstance(loss, GeneralizedCrossEntropy):
        # Zhang & Sabuncu 2018, arXiv 1805.07836; p ** q from its logarithm, whose gradient is finite at p = 0
        return lambda x, y: (1 - (-F.cross_entropy(x, y, reduction="none") * loss.q).exp()) / loss.q
    if isinstance(loss, SymmetricCrossEntropy):
        return lambda x, y: symmetric_cross_entropy(x, y, loss.alpha, loss.beta, loss.log_zero)
    if isinstance(loss, Corn):
        return corn
    assert isinstance(loss, RegressionLoss | Huber)
    return lambda x, y: _regression(loss, x[:, 0], (y - task.mean) / task.std)


def focal(logits: torch.Tensor, targets: torch.Tensor, gamma: float, label_smoothing: float) -> torch.Tensor:
    """Lin et al. 2017, arXiv 1708.02002, without alpha (which is a class weight). Multilabel: each label by itself."""
    if targets.ndim == 2:
        smooth = targets * (1 - label_smoothing) + label_smoothing / 2
        nll = F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
        p = logits.sigmoid()
        missing = (p * (1 - smooth) + (1 - p) * smooth).clamp_min(TINY)
        return (missing**gamma * nll).mean(dim=1)
    nll = F.cross_entropy(logits, targets, reduction="none")
    # 1 - p as -expm1(log p), which is exact near p = 1. Held above 0, where a power below 1 has no finite gradient.
    missing = (-torch.expm1(-nll)).clamp_min(TINY)
    return missing**gamma * F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)


def one_vs_all(logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Binary cross entropy of each class, mean over the classes: Wightman et al. 2021, arXiv 2110.00476, as in timm."""
    n = logits.shape[1]
    off, truth = (
        (label_smoothing / 2, targets)
        if targets.ndim == 2
        else (label_smoothing / n, F.one_hot(targets, n).to(logits.dtype))
    )
    smooth = truth * (1 - label_smoothing) + off
    return F.binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(dim=1)


def soft_f1(logits: torch.Tensor, targets: torch.Tensor, absent: torch.Tensor | None) -> torch.Tensor:
    """1 - macro F1 with probabilities in place of answers, over the rows of the batch; every row has the same value.

    absent: (C,) of several labels a row, those that no training row has; None for classes. F1 of such a label is 0
    whatever is predicted, so in its place 1 minus the mean probability counts, and teaches the label to be improbable.

    A score of a batch and not of rows, so accumulation changes it, and published comparisons found it worse than cross
    entropy.
    """
    probs = logits.softmax(dim=1) if absent is None else logits.sigmoid()
    truth = (F.one_hot(targets, logits.shape[1]) if absent is None else targets).to(probs.dtype)
    f1 = 2 * (probs * truth).sum(dim=0) / (probs.sum(dim=0) + truth.sum(dim=0)).clamp_min(1e-7)
    if absent is not None:
        f1 = torch.where(absent.to(f1.device), 1 - probs.mean(dim=0), f1)
    return (1 - f1.mean()).expand(len(logits))


def symmetric_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, alpha: float, beta: float, log_zero: float
) -> torch.Tensor:
    """Wang et al. 2019, arXiv 1908.06112: alpha * CE + beta * CE with target and prediction in each other's place."""
    nll = F.cross_entropy(logits, targets, reduction="none")
    return alpha * nll + beta * -log_zero * -torch.expm1(-nll)


def corn(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Shi, Cao & Raschka 2021, arXiv 2111.08851: is it above class k, asked only of rows that reach k; over C - 1.

    logits (B, C - 1), targets (B,).
    """
    thresholds = torch.arange(logits.shape[1], device=logits.device)
    asked = targets[:, None] >= thresholds
    above = (targets[:, None] > thresholds).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, above, reduction="none")
    return (each * asked).sum(dim=1) / logits.shape[1]


def _regression(settings: RegressionLoss | Huber, answers: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    targets = targets.to(answers.dtype)
    if isinstance(settings, Huber):
        return F.huber_loss(answers, targets, reduction="none", delta=settings.delta)
    function = F.mse_loss if settings.name == "mse" else F.l1_loss
    return function(answers, targets, reduction="none")

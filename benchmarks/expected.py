"""Does the expected score of a submission cover the score that the test set gives?

    .venv/bin/python benchmarks/expected.py train FOLDER WEIGHTS [FIRST LAST]   # 20 draws
    .venv/bin/python benchmarks/expected.py judge [CASE ...]                    # the table

FOLDER holds facemask3/ and mask18/, WEIGHTS is a safetensors file of tf_efficientnet_lite0, or `none`. Each draw sets
whole groups apart as a test set (30 % of the rows) and cross-validates on the others: five folds, groups kept together.
facemask3 is learnt by a small network from scratch at 32 px, mask18 by small heads on frozen features (without WEIGHTS
on its pixels at 16 px). Only the judge reads the answers of the test rows.
"""

import csv
import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn

from pipeline.config.metric import Metric, parse_metric
from pipeline.config.settings import RUNS
from pipeline.expected import Answered, expected_score, spreads
from pipeline.metrics import bootstrap_interval, score

KEPT = RUNS / "cache" / "expected"
N_FOLDS, HELD_OUT, BATCH = 5, 0.3, 64
# name -> (data, network, kind, epochs, seeds)
CASES = {
    "facemask3 short": ("facemask3", "net", "class", 2, 1),
    "facemask3 longer": ("facemask3", "net", "class", 12, 1),
    "mask18 short": ("mask18", "head", "class", 2, 2),
    "mask18 longer": ("mask18", "head", "class", 12, 1),
    "mask18 labels": ("mask18", "head", "multilabel", 2, 1),
    "mask18 age group": ("mask18", "head", "ordinal", 3, 1),
    "mask18 age": ("mask18", "head", "regression", 3, 1),
    "facemask3 pixels": ("facemask3", "net", "regression", 3, 1),
}


# --- data ---------------------------------------------------------------------------------------------------------


def pixels(paths: list[Path], px: int) -> torch.Tensor:
    """(N, 3, px, px), from -1 to 1."""
    images = [np.asarray(Image.open(path).convert("RGB").resize((px, px), Image.Resampling.BICUBIC)) for path in paths]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def facemask3(folder: Path) -> tuple[torch.Tensor, np.ndarray, dict[str, np.ndarray]]:
    """(inputs, groups, kind of target -> targets)."""
    rows = list(csv.DictReader((folder / "facemask3/train.csv").read_text().splitlines()))
    classes = ["with_mask", "without_mask", "incorrect_mask"]
    targets = {
        "class": np.array([classes.index(row["label"]) for row in rows]),
        "regression": np.log2([float(row["face_px"]) for row in rows]),
    }
    images = pixels([folder / "facemask3/images" / row["image_id"] for row in rows], 32)
    return images, np.array([row["group"] for row in rows]), targets


def mask18(folder: Path, weights: str) -> tuple[torch.Tensor, np.ndarray, dict[str, np.ndarray]]:
    rows = list(csv.DictReader((folder / "mask18/train/train.csv").read_text().splitlines()))
    paths, groups, labels, ages = [], [], [], []
    for row in rows:
        for path in sorted((folder / "mask18/train/images" / row["path"]).glob("*.jpg")):
            mask = {"incorrect_mask": 1, "normal": 2}.get(path.stem, 0)
            age = min(int(row["age"]) // 30, 2)
            paths.append(path)
            groups.append(row["id"])
            ages.append(float(row["age"]))
            labels.append([mask, int(row["gender"] == "female"), age])
    mask, female, age = np.array(labels).T
    several = np.stack([mask == 0, mask == 1, mask == 2, female == 1, age == 0, age == 2], axis=1).astype(int)
    targets = {
        "class": 6 * mask + 3 * female + age,
        "multilabel": several,
        "ordinal": age,
        "regression": np.array(ages),
    }
    return features(paths, weights), np.array(groups), targets


@torch.inference_mode()
def features(paths: list[Path], weights: str) -> torch.Tensor:
    """(N, D), each column with mean 0 and standard deviation 1; kept, since they do not depend on the draw."""
    kept = KEPT / "features.npy"
    if kept.is_file():
        return torch.from_numpy(np.load(kept))
    if weights == "none":
        values = pixels(paths, 16).flatten(1)
    else:
        overlay = {"file": weights}
        model = timm.create_model("tf_efficientnet_lite0", True, pretrained_cfg_overlay=overlay, num_classes=0).eval()
        values = torch.cat([model(pixels(paths[i : i + 50], 96)) for i in range(0, len(paths), 50)])
    values = (values - values.mean(dim=0)) / values.std(dim=0).clamp_min(1e-6)
    np.save(kept, values.numpy())
    return values


# --- training -----------------------------------------------------------------------------------------------------


def network(net: str, n_inputs: int, n_outputs: int) -> nn.Module:
    if net == "net":
        widths = (3, 16, 32, 64)
        layers = [
            layer
            for a, b in pairwise(widths)
            for layer in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())
        ]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], n_outputs))
    return nn.Sequential(nn.Linear(n_inputs, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, n_outputs))


def trained(inputs: torch.Tensor, targets: np.ndarray, kind: str, net: str, epochs: int, seed: int) -> Callable:
    """inputs -> (N, C) outputs, of a network that was trained on these rows."""
    torch.manual_seed(seed)
    n_outputs = {"regression": 1, "multilabel": targets.shape[-1]}.get(kind, int(targets.max()) + 1)
    model = network(net, inputs.shape[1], n_outputs)
    mean, std = (float(targets.mean()), float(targets.std())) if kind == "regression" else (0.0, 1.0)
    wanted = torch.from_numpy((targets - mean) / std).float() if kind == "regression" else torch.from_numpy(targets)
    lr, steps = (3e-3 if net == "net" else 1e-3), epochs * -(-len(inputs) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(BATCH):
            batch = inputs[rows]
            if net == "net" and torch.rand(()) < 0.5:
                batch = batch.flip(3)
            logits = model(batch)
            if kind == "regression":
                loss = F.mse_loss(logits[:, 0], wanted[rows])
            elif kind == "multilabel":
                loss = F.binary_cross_entropy_with_logits(logits, wanted[rows].float())
            else:
                loss = F.cross_entropy(logits, wanted[rows], label_smoothing=0.1 if net == "net" else 0.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()

    @torch.inference_mode()
    def answers(asked: torch.Tensor) -> np.ndarray:
        logits = torch.cat([model(part) for part in asked.split(256)])
        if kind == "regression":
            return (logits * std + mean).numpy()
        return (logits.sigmoid() if kind == "multilabel" else logits.softmax(dim=1)).numpy()

    return answers


def train_draw(draw: int, name: str, inputs: torch.Tensor, groups: np.ndarray, of_kind: dict[str, np.ndarray]) -> None:
    """Cross-validates on what the draw leaves, and keeps the outputs of each model."""
    _, net, kind, epochs, n_seeds = CASES[name]
    path = KEPT / f"{name.replace(' ', '-')}-{draw}.npz"
    if path.is_file():
        return
    rng, targets = np.random.default_rng(draw), of_kind[kind]
    names, unit = np.unique(groups, return_inverse=True)
    order = rng.permutation(len(names))
    share = np.bincount(unit)[order].cumsum() / len(groups)
    held = np.isin(unit, order[share <= HELD_OUT])
    rows = np.flatnonzero(~held)
    strata = np.digitize(targets, np.quantile(targets, [0.25, 0.5, 0.75])) if kind == "regression" else of_kind["class"]
    splits = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=draw).split(rows, strata[rows], unit[rows])
    n_outputs = {"regression": 1, "multilabel": targets.shape[-1]}.get(kind, int(targets.max()) + 1)
    oof = np.zeros((n_seeds, len(rows), n_outputs), np.float32)
    test = np.zeros((n_seeds, N_FOLDS, held.sum(), n_outputs), np.float32)
    for fold, (fit, valid) in enumerate(splits):
        for seed in range(n_seeds):
            which = 1000 * draw + 10 * fold + seed
            answers = trained(inputs[rows[fit]], targets[rows[fit]], kind, net, epochs, which)
            oof[seed, valid], test[seed, fold] = answers(inputs[rows[valid]]), answers(inputs[held])
    np.savez(path, oof=oof, test=test, targets=targets[rows], units=unit[rows], answers=targets[held])
    print(name, draw, flush=True)


def train(folder: Path, weights: str, first: int, last: int) -> None:
    torch.set_num_threads(1)
    KEPT.mkdir(parents=True, exist_ok=True)
    data = {"facemask3": facemask3(folder), "mask18": mask18(folder, weights)}
    for draw in range(first, last):
        for name in CASES:
            train_draw(draw, name, *data[CASES[name][0]])


# --- judging ------------------------------------------------------------------------------------------------------

METRICS = {
    "class": ("macro_f1", "accuracy", "log_loss", "auc"),
    "multilabel": ("macro_f1", "log_loss", "auc"),
    "ordinal": ("quadratic_kappa", "accuracy", "mae"),
    "regression": ("rmse", "mae", "r2"),
}


def judge(cases: Sequence[str]) -> None:
    """Each case and metric: how many intervals cover the score of the held rows, and how far off the values are.

    before: the out-of-fold score with its interval. gain: of the mean over single models on the held rows, as it was
    and as it was expected.
    """
    columns = ("case, metric", "draws", "covered: before, now", "mean error: before, now",
               "root mean square error: before, now", "width: before, now", "gain: true, expected")  # fmt: skip
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    covered = np.zeros(3, int)
    for name in cases:
        _, _, kind, _, n_seeds = CASES[name]
        draws = [np.load(path) for path in sorted(KEPT.glob(f"{name.replace(' ', '-')}-[0-9]*.npz"))]
        for used in sorted({1, n_seeds}):
            for metric in METRICS[kind] if draws else ():
                rule = parse_metric(metric, kind)
                if kind == "ordinal":
                    rule = dataclasses.replace(rule, values=(0.0, 1.0, 2.0))
                rows = np.array([judged_draw(rule, kind, draw, used) for draw in draws])
                before, now = rows[:, :3], rows[:, 3:6]
                truth, single = rows[:, 6], rows[:, 7]
                hits = [int(((side[:, 1] <= truth) & (truth <= side[:, 2])).sum()) for side in (before, now)]
                errors = [side[:, 0] - truth for side in (before, now)]
                widths = [(side[:, 2] - side[:, 1]).mean() for side in (before, now)]
                covered += [*hits, len(rows)]
                of_seeds = f", {used} seeds" if used > 1 else ""
                print(f"| {name}{of_seeds}, {metric} | {len(rows)} | {hits[0]}, {hits[1]} "
                      f"| {errors[0].mean():+.3f}, {errors[1].mean():+.3f} "
                      f"| {(errors[0] ** 2).mean() ** 0.5:.3f}, {(errors[1] ** 2).mean() ** 0.5:.3f} "
                      f"| {widths[0]:.3f}, {widths[1]:.3f} "
                      f"| {(truth - single).mean():+.4f}, {(now[:, 0] - before[:, 0]).mean():+.4f} |")  # fmt: skip
    print(f"\ncovered in all: before {covered[0]}, now {covered[1]} of {covered[2]}")


def judged_draw(rule: Metric, kind: str, draw: Mapping[str, np.ndarray], used: int) -> list[float]:
    """Score, low, high out of fold; value, low, high expected; score of the held rows; that of single models."""
    targets, units, answers = draw["targets"], draw["units"], draw["answers"]
    oof, models = draw["oof"][:used].mean(axis=0).astype(float), draw["test"][:used].astype(float)
    mean, flat = models.mean(axis=(0, 1)), models.reshape(-1, *models.shape[2:])
    numbers = [fold for _ in range(used) for fold in range(N_FOLDS)]
    spread = spreads([list(flat)], [numbers], [0] * N_FOLDS, np.ones(len(targets)))[0, 0]
    e = expected_score(rule, kind, Answered(oof, oof), targets, units, Answered(mean, mean), spread)
    old = bootstrap_interval(rule, targets, oof, units, kind)
    single = np.mean([score(rule, answers, each, kind) for each in models.mean(axis=0)])
    truth = score(rule, answers, mean, kind)
    return [score(rule, targets, oof, kind), old.low, old.high, e.value, e.low, e.high, truth, float(single)]


if __name__ == "__main__":
    if sys.argv[1] == "train":
        first, last = map(int, sys.argv[4:6]) if len(sys.argv) > 4 else (0, 20)
        train(Path(sys.argv[2]), sys.argv[3], first, last)
    else:
        judge(sys.argv[2:] or list(CASES))

"""Podium's training engine against the limit (the same steps on resident tensors), a plain loop, and Lightning.

    .venv/bin/python benchmarks/train.py FOLDER                     # the limit and Podium
    .venv/bin/python benchmarks/train.py FOLDER --peers PYTHON      # and the peers, run by a Python that has lightning

FOLDER: train.csv (image_id,label,fold) and images/{image_id}.jpg, as benchmarks/peers/make_data.py writes them. Each
participant is a process of its own that trains 5 folds x 2 epochs and validates after each; they take turns, so noise
of the machine falls on all. Counted: from before the first image is decoded (Podium's image store included, built anew
each time) to the last validation; CPU seconds of all threads and workers. Prints ratios of medians, and the spread.
"""

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CASES = {"test_resnet": 64, "mobilenetv3_small_100": 128}
SETS = {
    "light": {"crop_area": [0.35, 1.0], "flip": 0.5},
    "strong": {"crop_area": [0.35, 1.0], "flip": 0.5, "rotate_deg": 15, "brightness": 0.3, "contrast": 0.3,
               "saturation": 0.3, "erase": 0.25},
}  # fmt: skip
OURS = {  # role, memory layout, precision
    "limit, first": ("limit", "first", "fp32"),  # channels first, as PyTorch's own default
    "podium, first": ("podium", "first", "fp32"),
    "limit, last": ("limit", "last", "fp32"),  # channels last: the same numbers, faster
    "podium, last": ("podium", "last", "fp32"),
    "podium, auto": ("podium", "auto", "auto"),
}
LIMIT_OF = {"podium, first": "limit, first"}  # of the same steps; all others are compared with "limit, last"
HERE = Path(__file__).resolve().parent


def cpu_s() -> float:
    """User and system time of this process and of the children it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / "train.csv").open() as file:
        return list(csv.DictReader(file))


def experiment(args: argparse.Namespace, folder: Path):
    from pipeline.config.settings import Experiment

    return Experiment.model_validate(
        {
            "competition": {
                "source": "csv", "name": "bench", "root": str(folder), "sample_csv": "none",
                "train_images": "images/{image_id}.jpg",
            },
            "images": {"px": args.px, "crop": 0.875, "mean": [0.5] * 3, "std": [0.5] * 3},
            "model": {"name": args.model},
            "augment": SETS[args.augment],
            "train": {
                "epochs": 2, "batch_size": 32, "lr": 1e-3, "device": args.device,
                "precision": args.precision,
                "channels_last": {"auto": "auto", "last": True, "first": False}[args.layout],
            },
        }
    )  # fmt: skip


def import_late_imports() -> None:
    """torch imports its compiler with the first optimizer; imports are nobody's training."""
    import torch

    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).step()


def podium(args: argparse.Namespace) -> dict:
    """What `make train` does between reading the tables and writing to MLflow."""
    import numpy as np
    import pandas as pd
    import torch

    from pipeline.augment import image_keys
    from pipeline.competition.csv import read as read_competition
    from pipeline.crossval import cross_validate
    from pipeline.images.content import content_hashes
    from pipeline.images.load import load_images, row_pixels
    from pipeline.images.store import Store, side_for
    from pipeline.model import pick_device, preprocessing
    from pipeline.precision import choose
    from pipeline.task import Task
    from pipeline.train import TrainingData

    torch.set_num_threads(args.threads)
    settings = experiment(args, args.folder)
    competition = read_competition(settings.competition)
    rows, fold_of = competition.train_rows, {row["image_id"]: int(row["fold"]) for row in read(args.folder)}
    folds = pd.DataFrame(
        [{"image_id": r["image_id"], "fold": fold_of[r["image_id"]], "label": r["label"], "group": ""} for r in rows]
    )
    spec, task = preprocessing(settings.images, settings.model), Task("class", "softmax", competition.classes)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        folder = Path(scratch)
        device, known = pick_device(args.device), args.scratch / "precision.json"
        precision, _ = choose(settings, task.n_logits, spec.mode, spec.px, device, known)
        import_late_imports()
        pd.DataFrame({"a": [1]}).to_parquet(folder / "a.parquet")
        started, before = time.perf_counter(), cpu_s()
        hashes = content_hashes([row["path"] for row in rows], folder / "hashes.json")
        store = Store(folder / "store", side_for("auto", spec, settings.augment.mean_crop_area))
        store.build(rows, hashes, lambda n: None)
        built = cpu_s()
        images = torch.from_numpy(load_images(rows, spec, store, hashes))
        targets = torch.tensor([competition.classes.index(row["label"]) for row in rows])
        ids = [row["image_id"] for row in rows]
        pixels = row_pixels(rows, spec, store, hashes)
        data = TrainingData(images, pixels, targets, targets, np.array(ids), image_keys(ids), task, "macro_f1", spec)
        loaded = cpu_s()
        cv = cross_validate(data, folds, settings, precision, {}, "", folder / "train", lambda record: None)
        return {
            "wall_s": time.perf_counter() - started, "cpu_s": cpu_s() - before, "score": cv.score,
            "store_cpu_s": built - before, "load_cpu_s": loaded - built, "precision": str(precision),
        }  # fmt: skip


def limit(args: argparse.Namespace) -> dict:
    """The same model, optimizer, clipping and number of steps on images that are normalised tensors already."""
    import torch

    from pipeline.model import build_model, head_parameters
    from pipeline.optim import build_optimizer
    from pipeline.precision import Precision

    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings, rows = experiment(args, args.folder), read(args.folder)
    precision = Precision("fp32" if args.precision == "auto" else args.precision, args.layout != "first")
    device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    classes = sorted({row["label"] for row in rows})
    fold_of = torch.tensor([int(row["fold"]) for row in rows])
    targets = torch.tensor([classes.index(row["label"]) for row in rows]).to(device)
    images = torch.randn(len(rows), 3, args.px, args.px).to(device).contiguous(memory_format=precision.memory_format)
    import_late_imports()
    started, before = time.perf_counter(), cpu_s()
    for fold in range(5):
        torch.manual_seed(fold)
        model = build_model(settings.model, len(classes), "RGB").to(device, memory_format=precision.memory_format)
        optimizer = build_optimizer(model, head_parameters(model), settings.train)
        train, valid = torch.nonzero(fold_of != fold)[:, 0], torch.nonzero(fold_of == fold)[:, 0]
        for _ in range(2):
            model.train()
            for batch in train[torch.randperm(len(train))].split(32):
                with torch.autocast(device.type, precision.dtype, precision.is_mixed):
                    logits = model(images[batch])
                torch.nn.functional.cross_entropy(logits.float(), targets[batch]).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            model.eval()
            with torch.inference_mode():
                torch.cat([model(images[batch]) for batch in valid.split(256)]).cpu()
    return {"wall_s": time.perf_counter() - started, "cpu_s": cpu_s() - before}


def run(name: str, args: argparse.Namespace, model: str, augment: str) -> dict:
    """One participant in a process of its own."""
    work = [str(args.folder), "--model", model, "--px", str(CASES[model]), "--augment", augment]
    work += ["--threads", str(args.threads)]
    if name in OURS:
        role, layout, precision = OURS[name]
        command = [sys.executable, __file__, *work, "--role", role, "--device", args.device, "--layout", layout,
                   "--precision", precision, "--scratch", str(args.scratch)]  # fmt: skip
    else:
        command = [args.peers, str(HERE / "peers" / f"{name}_loop.py"), *work, "--workers", str(args.workers)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peers", help="a Python with torch, torchvision, timm, scikit-learn and lightning")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(CASES))
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="of the peers' data loaders")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    for name in ("--role", "--model", "--augment", "--layout", "--precision"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--px", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        print(json.dumps({"podium": podium, "limit": limit}[args.role](args)))
        return
    n_images = 2 * 4 * len(read(args.folder))  # 5 folds, each 4/5 of the rows, twice
    names = [*OURS, *(["plain", "lightning"] if args.peers else [])]
    for model in args.models:
        for augment in args.sets:
            taken: dict[str, list[dict]] = {name: [] for name in names}
            for _ in range(args.repeats):
                for name in names:
                    taken[name].append(run(name, args, model, augment))
            print(f"\n{model}, {CASES[model]} px, {augment}; {n_images:,} training images, {args.threads} threads")
            for name in names:
                cpu, wall = ([1e3 * t[key] / n_images for t in taken[name]] for key in ("cpu_s", "wall_s"))
                reference = LIMIT_OF.get(name, "limit, last")
                ratios = [a["cpu_s"] / b["cpu_s"] for a, b in zip(taken[name], taken[reference], strict=True)]
                more = {key: round(1e3 * statistics.median(t[key] for t in taken[name]) / n_images, 3)
                        for key in ("store_cpu_s", "load_cpu_s") if key in taken[name][0]}  # fmt: skip
                print(
                    f"{name:<16} CPU {statistics.median(cpu):6.2f} ms an image ({min(cpu):.2f} to {max(cpu):.2f})  "
                    f"wall {statistics.median(wall):6.2f}  {statistics.median(ratios):5.2f} x {reference} "
                    f"({min(ratios):.2f} to {max(ratios):.2f})  {taken[name][0].get('precision', '')} {more or ''}"
                )


if __name__ == "__main__":
    main()

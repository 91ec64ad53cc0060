"""Five folds' models, two views each, over many photos: Podium against its own models alone, and against a plain loop.

    .venv/bin/python benchmarks/predict.py [FOLDER]    # photo-like JPEGs drawn on the spot, then the files of FOLDER

`podium` is a submission's way: hashes of the files looked up, the image store opened, `stream` through `load_images`.
`podium, store anew` has neither yet, as where no image was ever looked at, and reads, decodes and writes them first.
`resident` has all images in memory as bytes, through the preprocessing already, and calls `predict` for each model and
view: what is left is the models. `plain loop` is what people write: for each fold a DataLoader with a worker a core
over the files, Pillow, torchvision's transforms, a batch as it is and mirrored. It decodes once a fold and not once a
view, and has channels last, inference_mode and the faster of two usual batch sizes (--batch 256 is slower).

All have the same checkpoints, loaded before the clock starts, files in the page cache, a torch thread a core and the
same rows, and are asked for each fold's mean of the views' probabilities. They take turns in one process, back and
forth, so that the machine's noise falls on all. Outputs must agree: `podium` with `resident` to the bit, `plain loop`
within 0.001 of `predict` on files decoded anew. CPU seconds are of all threads and workers. Nobody trained the models.
Where other programs are at work, set OMP_WAIT_POLICY=PASSIVE: torch's threads else wait for each other at full speed.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from store import synthetic
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from pipeline.competition.contract import WHERE, Row
from pipeline.config.data import Images, Preprocessing
from pipeline.config.training import Model
from pipeline.images.content import content_hashes
from pipeline.images.load import load_images
from pipeline.images.store import Store, side_for
from pipeline.infer import Loaded
from pipeline.model import CheckpointInfo, build_model, heads_of, load_checkpoint, preprocessing, save_checkpoint
from pipeline.predict import predict
from pipeline.stream import Part, part_size, stream
from pipeline.task import Task
from pipeline.views import views_of

CASES = {"mobilenetv3_small_050": (64, 5, 1500), "tf_efficientnet_lite0": (128, 3, 300)}  # px, rounds, photos
FOLDS = 5
TASK = Task("class", "softmax", tuple(f"class {i}" for i in range(18)))
VIEWS = views_of(["flip"])
CPU = torch.device("cpu")


def cpu_s() -> float:
    """User and system time of this process and of the children it has waited for."""
    assert not multiprocessing.active_children(), "a worker still runs, so its time is not counted"
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def models_of(folder: Path, name: str, spec: Preprocessing, images: torch.Tensor) -> list[Loaded]:
    """Networks that nobody trained, with heads that tell these images apart."""
    loaded = []
    mean, std = (255 * torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    for fold in range(FOLDS):
        torch.manual_seed(fold)
        model = build_model(Model(name=name), TASK.n_logits, spec.mode)
        with torch.no_grad():
            head = model.get_submodule(heads_of(model)[0])
            logits = model.eval()((images.permute(0, 3, 1, 2) - mean) / std)
            factor = 2 / logits.std(dim=0).mean()
            head.weight *= factor
            head.bias -= logits.mean(dim=0) * factor
        info = CheckpointInfo(name, TASK, spec, fold, 0, 1, "fp32", True, {}, "benchmark")
        save_checkpoint(folder / f"{name}-{fold}.safetensors", model, info)
        loaded.append(load_checkpoint(folder / f"{name}-{fold}.safetensors", CPU))
    return loaded


def podium(models: list[Loaded], rows: list[Row], folder: Path, anew: bool = False) -> np.ndarray:
    """(folds, N, classes). anew: forgets the files' hashes and decoded pixels first, and so makes them again."""
    spec = models[0][1].preprocessing
    for path in (folder / "hashes.json", *(folder / "store").glob("*")) if anew else ():
        path.unlink()
    contents = content_hashes([row["path"] for row in rows], folder / "hashes.json")
    store = Store(folder / "store", side_for("auto", spec))
    assert store.build(rows, contents, lambda n: None) == []
    size = part_size(spec.px, CPU)
    parts = [Part(at, min(at + size, len(rows)), tuple(range(FOLDS))) for at in range(0, len(rows), size)]

    def load(start, stop, place) -> np.ndarray:
        return load_images(rows[start:stop], place.spec(spec), store, contents[start:stop], (place.x, place.y))

    answers = [outputs for _, outputs in stream(dict(enumerate(models)), load, parts, VIEWS, "probs", CPU)]
    return np.stack([np.concatenate([part[fold] for part in answers]) for fold in range(FOLDS)])


def resident(models: list[Loaded], images: torch.Tensor) -> np.ndarray:
    """(folds, N, classes) of images that are there."""
    outputs = []
    for model, info in models:
        each = [predict(model, info.task, images, info.preprocessing, CPU, view) for view in VIEWS]
        outputs.append(np.mean(each, axis=0, dtype=np.float64).astype("f4"))
    return np.stack(outputs)


class Photos(Dataset):
    def __init__(self, rows: list[Row], spec: Preprocessing):
        steps = [T.Resize(int(spec.px / spec.crop), T.InterpolationMode(spec.interpolation)), T.CenterCrop(spec.px)]
        self.rows, self.transform = rows, T.Compose([*steps, T.ToTensor(), T.Normalize(spec.mean, spec.std)])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.rows[index]["path"]) as image:
            return self.transform(image.convert("RGB"))


@torch.inference_mode()
def plain_loop(models: list[Loaded], rows: list[Row], workers: int, batch: int) -> np.ndarray:
    """(folds, N, classes); each fold reads the files again. load_checkpoint gave the models channels last and eval."""
    folds = []
    for model, info in models:
        outputs = []
        for images in DataLoader(Photos(rows, info.preprocessing), batch, num_workers=workers):
            images = images.contiguous(memory_format=torch.channels_last)
            outputs.append((model(images).softmax(1) + model(images.flip(3)).softmax(1)) / 2)
        folds.append(torch.cat(outputs))
    return torch.stack(folds).numpy()


def compare(folder: Path, name: str, work: Path, args: argparse.Namespace) -> None:
    px, rounds, n = (asked or usual for asked, usual in zip((None, args.rounds, args.n), CASES[name], strict=True))
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))[:n]
    rows = [{"image_id": str(i), "path": str(p), WHERE: str(i)} for i, p in enumerate(paths)]
    spec = preprocessing(Images(px=px), Model(name=name))
    from_files = torch.from_numpy(load_images(rows, spec))  # reads all files into the page cache, too
    models = models_of(work, name, spec, from_files[:256])
    exact = resident(models, from_files)
    podium(models, rows, work)  # builds the store
    contents = content_hashes([row["path"] for row in rows], work / "hashes.json")
    store = Store(work / "store", side_for("auto", spec))
    images = torch.from_numpy(load_images(rows, spec, store, contents))
    ways = {
        "resident": lambda: resident(models, images),
        "podium": lambda: podium(models, rows, work),
        "podium, store anew": lambda: podium(models, rows, work, anew=True),
        "plain loop": lambda: plain_loop(models, rows, args.workers, args.batch),
    }
    plain_loop(models, rows[:64], args.workers, args.batch)  # imports and first calls are nobody's time
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    outputs: dict[str, np.ndarray] = {}
    for turn in range(rounds):
        for way in list(ways)[:: 1 if turn % 2 == 0 else -1]:
            wall, cpu = time.perf_counter(), cpu_s()
            outputs[way] = ways[way]()
            taken[way].append((time.perf_counter() - wall, cpu_s() - cpu))
        assert all(np.array_equal(outputs[way], outputs["resident"]) for way in ("podium", "podium, store anew"))
        assert np.abs(outputs["plain loop"] - exact).max() < 0.001
    apart = (images.float() - from_files.float()).abs().mean()
    agree = (outputs["podium"].mean(0).argmax(1) == outputs["plain loop"].mean(0).argmax(1)).mean()
    what = "of FOLDER" if folder == args.folder else "of 512x384, drawn"
    print(
        f"\n{name}, {px} px, {len(rows):,} photos {what}; store of side {store.side}, whose pixels are {apart:.2f} grey"
    )
    print(f"levels from the files' on average; {agree:.1%} of podium's answers are the plain loop's\n")
    print("| way | images/s, median (min to max) | CPU ms an image | podium over it |\n| --- | --- | --- | --- |")
    for way, times in taken.items():
        rates, cpu = [len(rows) / wall for wall, _ in times], [1000 * cpu / len(rows) for _, cpu in times]
        over = [wall / own for (wall, _), (own, _) in zip(times, taken["podium"], strict=True)]
        figures = [f"{statistics.median(v):{f}} ({min(v):{f}} to {max(v):{f}})"
                   for v, f in ((rates, ",.0f"), (cpu, ".2f"), (over, ".2f"))]  # fmt: skip
        print(f"| {way} | {' | '.join(figures)} |", flush=True)
    shutil.rmtree(work / "store")  # other photos, or another side, are next


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--n", type=int, help="photos, instead of 1,500 and 300")
    parser.add_argument("--models", nargs="+", default=list(CASES))
    parser.add_argument("--rounds", type=int, help="instead of 5 for the small model and 3 for the large one")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the plain loop")
    parser.add_argument("--batch", type=int, default=64, help="of the plain loop")
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (drawn := work / "drawn").mkdir()
        synthetic(drawn, "512x384", args.n or max(n for _, _, n in CASES.values()))
        for folder, model in product([drawn, args.folder] if args.folder else [drawn], args.models):
            compare(folder, model, work, args)


if __name__ == "__main__":
    main()

"""How much a split by photo flatters: the mask competition once with persons kept apart, once with photos shared out.

    .venv/bin/python benchmarks/leak.py FOLDER WEIGHTS [key=value ...]

FOLDER holds mask18/, WEIGHTS is a safetensors file for tf_efficientnet_lite0. Trains `experiments/mask-small.yaml` both
ways, in this checkout, with the same network, epochs and seed (25 minutes each on one core), and prints both scores.
Podium has no setting for the second way, so the photos are given to it as a table that names no persons.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from pipeline.competition.sources import open_competition
from pipeline.config.load import load
from pipeline.config.settings import ROOT, RUNS

LEAKING = """base: {base}
competition:
  source: csv
  name: mask-by-photo
  root: {root}
  sample_csv: none
  classes: [{classes}]
  train_images: "{{file}}"
folds:
  stratify: [class]
  duplicates: "off"
"""


def main(folder: Path, weights: str, overrides: list[str]) -> None:
    os.environ["PODIUM_DATA"] = str(folder)
    base = ROOT / "experiments/mask-small.yaml"
    settings, _ = load(base)
    competition = open_competition(settings.competition)
    table = RUNS / "mask-by-photo"
    table.mkdir(parents=True, exist_ok=True)
    images = table / "images"
    if not images.exists():
        subprocess.run(
            ["cp", "-r", str(competition.root), str(images)], check=True
        )  # no link may lead out of its folder
    with (table / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "label", "file"])
        for row in competition.train_rows:
            writer.writerow(
                [row["image_id"], row["label"], f"images/{Path(row['path']).relative_to(competition.root)}"]
            )
    leaking = table / "mask-by-photo.yaml"
    classes = ", ".join(f'"{name}"' for name in competition.classes)
    leaking.write_text(LEAKING.format(base=base, root=table, classes=classes))
    for name, file in (("persons kept apart", base), ("photos shared out", leaking)):
        command = [sys.executable, "-m", "pipeline", "train", str(file), f"model.weights={weights}", *overrides]
        subprocess.run(command, check=True, cwd=ROOT)
        figures = json.loads((RUNS / file.stem / "train.json").read_text())["figures"]
        print(f"{name}: macro F1 {figures['score']:.4f} (95 % interval {figures['low']:.4f} to {figures['high']:.4f})")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), str(Path(sys.argv[2]).resolve()), sys.argv[3:])

"""What `make score` says beside what the host says, of the same file: competitions in miniature, laid out as hosts do.

    .venv/bin/python benchmarks/hosts.py COMPETITIONS [NAME ...] [--drawn]

COMPETITIONS holds NAME/make.py, which draws the files (`make.py FOLDER` writes FOLDER/public and
FOLDER/private/answers.csv), and grade.py, a judge that knows nothing of Podium (`grade.py NAME SUBMISSION ANSWERS`).
Each miniature gets the settings below and nothing else, trains two folds of a small network from random weights, and
is submitted and scored. A second file holds drawn outputs, since two perfect scores compare nothing. Half a CPU minute
each, which `mlruns/hosts-*` keeps; with --drawn nothing is trained, a few seconds each. The scores say nothing about
models: a miniature is a few dozen drawn shapes.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CSV = {"source": "csv"}
COMPETITIONS = {
    "aerial-cactus-identification": CSV | {
        "id_column": "id", "label_column": "has_cactus", "metric": "auc",
        "train_images": "train/{id}", "test_images": "test/{id}",
    },
    "histopathologic-cancer-detection": CSV | {
        "train_csv": "train_labels.csv", "id_column": "id", "metric": "auc",
        "train_images": "train/{id}.tif", "test_images": "test/{id}.tif",
    },
    "hotel-id-2021-fgvc8": CSV | {
        "id_column": "image", "label_column": "hotel_id", "metric": "map_at_5",
        "train_images": "train_images/{chain}/{image}", "test_images": "test_images/{image}",
    },
    "aptos2019-blindness-detection": CSV | {
        "id_column": "id_code", "label_column": "diagnosis", "target": "ordinal", "metric": "quadratic_kappa",
        "train_images": "train_images/{id_code}.png", "test_images": "test_images/{id_code}.png",
    },
    "dog-breed-identification": CSV | {
        "train_csv": "labels.csv", "id_column": "id", "label_column": "breed", "metric": "log_loss",
        "train_images": "train/{id}.jpg", "test_images": "test/{id}.jpg",
    },
    "plant-seedlings-classification": {
        "source": "folder", "sample_csv": "sample_submission.csv", "metric": "accuracy",
    },
    "cassava-leaf-disease-classification": CSV | {
        "metric": "accuracy", "train_images": "train_images/{image_id}", "test_images": "test_images/{image_id}",
    },
    "imet-2020-fgvc7": CSV | {
        "id_column": "id", "label_column": "attribute_ids", "target": "multilabel", "metric": "micro_f1",
        "train_images": "train/{id}.png", "test_images": "test/{id}.png",
    },
    "invasive-species-monitoring": CSV | {
        "train_csv": "train_labels.csv", "id_column": "name", "label_column": "invasive", "metric": "auc",
        "train_images": "train/{name}.jpg", "test_images": "test/{name}.jpg",
    },
    "paddy-disease-classification": CSV | {
        "metric": "accuracy",
        "train_images": "train_images/{label}/{image_id}", "test_images": "test_images/{image_id}",
    },
    "petfinder-pawpularity-score": CSV | {
        "id_column": "Id", "label_column": "Pawpularity", "target": "regression", "metric": "rmse",
        "train_images": "train/{Id}.jpg", "test_images": "test/{Id}.jpg",
    },
    "plant-pathology-2021-fgvc8": CSV | {
        "id_column": "image", "label_column": "labels", "target": "multilabel", "metric": "micro_f1",
        "train_images": "train_images/{image}", "test_images": "test_images/{image}",
    },
}  # fmt: skip
TRAINING = {
    "images": {"px": 32},
    "model": {"name": "test_resnet", "pretrained": False},
    "folds": {"k": 2},
    "train": {"epochs": 2, "batch_size": 16, "lr": 3e-3},
}


def ran(*command: str | Path) -> str:
    """What it printed. Raises RuntimeError with all of it where it failed."""
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout


def row_of(name: str, competitions: Path, scratch: Path, trains: bool) -> str:
    """The table's row of one competition."""
    target = COMPETITIONS[name].get("target", "class")
    folder = scratch / name
    ran(competitions / name / "make.py", folder)
    answers, short = folder / "private/answers.csv", f"hosts-{name.split('-')[0]}-{name.split('-')[1]}"
    places = {"name": short, "root": str(folder / "public"), "answers_csv": str(answers)}
    loss = {"regression": "huber", "multilabel": "bce"}.get(target, "cross_entropy")
    settings = {"competition": places | COMPETITIONS[name], **TRAINING}
    settings["train"] = TRAINING["train"] | {"loss": {"name": loss}}
    path = scratch / f"{short}.yaml"
    path.write_text(yaml.safe_dump(settings))
    cells, verdicts = "", ["not trained | "]
    if trains:
        ran("-m", "pipeline", "score", path)
        mlruns = ROOT / "mlruns" / short
        submission = mlruns / "submission.csv"
        cells = ",".join(submission.read_text().splitlines()[1].split(",")[1:])
        own = json.loads((mlruns / "score.json").read_text())["figures"]["score"]
        verdicts = [verdict(own, host(name, competitions, submission, answers))]
    drawn = scratch / "drawn.csv"
    again = float(ran("-c", DRAWN, path, drawn, answers))
    cells = cells or ",".join(drawn.read_text().splitlines()[1].split(",")[1:])
    verdicts.append(verdict(again, host(name, competitions, drawn, answers)))
    return f"| {name} | {COMPETITIONS[name]['metric']} | `{cells[:44]}` | {' | '.join(verdicts)} |"


DRAWN = """
import sys
from pathlib import Path
import numpy as np
from pipeline.competition.sources import open_competition
from pipeline.config.load import load
from pipeline.score import score_submission
from pipeline.submit import write_submission
experiment, submission, answers = map(Path, sys.argv[1:])
competition = open_competition(load(experiment)[0].competition)
rng, n = np.random.default_rng(0), len(competition.test_rows)
draws = {"regression": rng.uniform(1, 100, (n, 1)), "multilabel": rng.uniform(0, 1, (n, len(competition.classes)))}
outputs = draws.get(competition.target, rng.dirichlet(np.ones(len(competition.classes)), n))
write_submission(competition, outputs.astype(np.float32), submission)
print(score_submission(submission, answers, competition)[0])
"""


def host(name: str, competitions: Path, submission: Path, answers: Path) -> str:
    """The score, or why the file is refused."""
    try:
        return ran(competitions / "grade.py", name, submission, answers).strip()
    except RuntimeError as refused:
        return str(refused).strip().splitlines()[-1]


def verdict(own: float, said: str) -> str:
    """Both scores, and whether they are equal."""
    equal = said.lstrip("-").replace(".", "").isdigit() and abs(float(said) - own) < 1e-6
    return f"{own:.7f} | {said[:40]}" + ("" if equal else " **not equal**")


def main() -> None:
    named = [word for word in sys.argv[2:] if word != "--drawn"] or list(COMPETITIONS)
    print("| competition | metric | cells of the first row | make score | the host | drawn: Podium | the host |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in named:
            row = row_of(name, Path(sys.argv[1]).resolve(), Path(scratch), "--drawn" not in sys.argv)
            print(row, flush=True)


if __name__ == "__main__":
    main()

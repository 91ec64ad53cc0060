"""The model that leaves the building: it answers as a submission does, anywhere, and leads only where it is better."""

import base64
import dataclasses
import json
import shutil
import subprocess
import sys
from importlib import metadata
from io import BytesIO
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline.answers import labels_of
from pipeline.competition.csv import read
from pipeline.config.data import Preprocessing
from pipeline.config.mistakes import Mistakes
from pipeline.config.settings import ROOT
from pipeline.config.training import Model
from pipeline.images.content import content_hashes
from pipeline.images.load import load_images
from pipeline.images.store import Store
from pipeline.model import CheckpointInfo, build_model, load_checkpoint, save_checkpoint
from pipeline.predict import predict
from pipeline.task import Task
from pipeline.tracking import package, registry
from pipeline.tracking import runs as tracking
from pipeline.tracking.package import save_package
from pipeline.tracking.registry import Score, beats

SPEC = Preprocessing(mode="RGB", px=32, crop=0.9, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3)
CPU = torch.device("cpu")
ORIENTATION = 0x0112


def save_models(folder: Path, task: Task, specs: list[Preprocessing]) -> list[Path]:
    """Untrained networks whose heads are made to disagree."""
    folder.mkdir(exist_ok=True)
    paths = []
    for fold, spec in enumerate(specs):
        torch.manual_seed(fold)
        model = build_model(Model(name="test_resnet"), task.n_logits, spec.mode)
        torch.nn.init.normal_(model.get_classifier().weight, std=2.0)  # else all probabilities are alike
        paths.append(folder / f"fold-{fold}.safetensors")
        info = CheckpointInfo("test_resnet", task, spec, fold, 0, 1, "fp32", True, {"folds": "x"}, "code")
        save_checkpoint(paths[-1], model, info)
    return paths


def words(competition, outputs: np.ndarray) -> list[str]:
    """What the submission's words for these outputs are."""
    return labels_of(outputs, competition.target, competition.label_texts, competition.separator)


def draw_unusual_files(root: Path) -> None:
    """The test images anew: larger than the store, grey, turned by EXIF, transparent, 16 bits, narrow."""
    rng = np.random.default_rng(1)

    def photo(height: int, width: int, channels: int = 3) -> np.ndarray:
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, channels), dtype=np.uint8).squeeze())
        return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))

    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(photo(300, 420)).save(root / "t0.png", "JPEG", quality=92)  # the format is what the bytes say
    Image.fromarray(photo(150, 200, 1)).save(root / "t1.png")
    Image.fromarray(photo(200, 300)).save(root / "t2.png", "JPEG", exif=exif)
    Image.fromarray(photo(40, 40, 4)).save(root / "t3.png")
    Image.fromarray(photo(160, 140, 1).astype(np.uint16) * 200).save(root / "t4.png")
    Image.fromarray(photo(20, 190)).save(root / "t5.png", "WEBP")


@pytest.fixture
def competition(small_settings, small_competition):
    draw_unusual_files(small_competition / "images")
    return read(small_settings)


@pytest.fixture
def build(competition, tmp_path):
    """A package for a task, with folds of two preprocessings and a store of side 128 or none."""

    def make(task: Task, side=128, name="package") -> tuple[Path, np.ndarray]:
        paths = save_models(tmp_path / "models", task, [SPEC, SPEC.model_copy(update={"px": 40}), SPEC])
        store = Store(tmp_path / f"store-{side}", side)
        hashes = content_hashes([row["path"] for row in competition.test_rows], tmp_path / "hashes.json")
        assert store.build(competition.test_rows, hashes, lambda n: None) == []
        each = []
        for model, info in (load_checkpoint(path, CPU) for path in paths):
            images = torch.from_numpy(load_images(competition.test_rows, info.preprocessing, store, hashes))
            each.append(predict(model, info.task, images, info.preprocessing, CPU))
        expected = np.mean(each, axis=0)
        texts = competition.label_texts if len(task.classes) == 2 else task.classes
        folder = save_package(tmp_path / name, paths, texts, " ", side)
        return folder, expected

    return make


TWO = ("bright", "dark")


@pytest.mark.parametrize("side", [128, "off"])
def test_it_answers_as_the_submission_does_on_bytes_and_on_paths_of_unusual_files(build, competition, side):
    folder, expected = build(Task("class", "softmax", TWO), side)
    model = mlflow.pyfunc.load_model(str(folder))
    paths = [row["path"] for row in competition.test_rows]
    by_path = model.predict(pd.DataFrame({"path": paths}))
    by_bytes = model.predict(pd.DataFrame({"image": [Path(path).read_bytes() for path in paths]}))
    assert list(by_path.columns) == ["class", "p_bright", "p_dark"]
    pd.testing.assert_frame_equal(by_path, by_bytes)
    assert np.abs(by_path[["p_bright", "p_dark"]].to_numpy() - expected).max() <= 1e-6
    assert list(by_path["class"]) == words(competition, expected)
    alone = pd.concat([model.predict(pd.DataFrame({"path": [path]})) for path in paths])
    assert np.abs(alone[["p_bright", "p_dark"]].to_numpy() - expected).max() <= 1e-6
    assert expected.std(axis=0).min() > 0.01  # the pictures are told apart, or the test would say nothing


def test_the_store_makes_a_difference_that_the_package_follows(build):
    assert (
        np.abs(build(Task("class", "softmax", TWO), 128)[1] - build(Task("class", "softmax", TWO), "off")[1]).max()
        > 1e-5
    )


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        (Task("multilabel", "sigmoid", ("a", "b", "c")), ["class", "p_a", "p_b", "p_c"]),
        (Task("ordinal", "corn", ("a", "b", "c")), ["class", "p_a", "p_b", "p_c"]),
        (Task("regression", "number", ("low", "high"), mean=50.0, std=9.0), ["class"]),
    ],
)
def test_other_targets_are_answered_in_their_own_words(build, competition, task, columns):
    folder, expected = build(task)
    got = mlflow.pyfunc.load_model(str(folder)).predict(
        pd.DataFrame({"path": [r["path"] for r in competition.test_rows]})
    )
    assert list(got.columns) == columns
    assert np.abs(got[columns[1:] or columns].to_numpy() - expected).max() <= 1e-6 * (
        task.std if task.kind == "regression" else 1
    )
    if task.kind == "regression":
        assert got["class"].dtype == np.float64
    else:
        said = dataclasses.replace(competition, label_texts=task.classes, target=task.kind, classes=task.classes)
        assert list(got["class"]) == words(said, expected)


def test_what_cannot_be_answered_is_told_with_its_row(build, competition, monkeypatch):
    model = mlflow.pyfunc.load_model(str(build(Task("class", "softmax", TWO))[0]))
    good = Path(competition.test_rows[0]["path"]).read_bytes()
    bomb = BytesIO()
    Image.new("L", (1, 60_000)).save(bomb, "PNG")
    for table, said in (
        ({"image": [good, b"no image", good, good[:500]]}, "row 1: UnidentifiedImageError.*row 3: OSError"),
        ({"image": [good, bomb.getvalue()]}, "row 1: 1 x 60000 px.*bomb"),
        ({"image": [good, None]}, "row 1: `image` is empty"),
        ({"image": [good], "path": ["x.png"]}, "found image and path"),
        ({"picture": [good]}, "found neither"),
        ({"path": ["nowhere.png"]}, "row 0: FileNotFoundError"),
    ):
        with pytest.raises(mlflow.MlflowException, match=said) as error:
            model.predict(pd.DataFrame(table))
        assert "0x" not in str(error.value)
    assert len(model.predict(pd.DataFrame({"image": []}, dtype=object))) == 0
    for name in ("PODIUM_SERVED", "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "true")
            with pytest.raises(mlflow.MlflowException, match="paths are not opened for others"):
                model.predict(pd.DataFrame({"path": [competition.test_rows[0]["path"]]}))
            assert len(model.predict(pd.DataFrame({"image": [good]}))) == 1


def test_an_altered_checkpoint_is_refused(build):
    folder, _ = build(Task("class", "softmax", TWO))
    path = folder / "artifacts/fold-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(Mistakes, match=r"fold-1\.safetensors: has hash"):
        mlflow.pyfunc.load_model(str(folder))


ELSEWHERE = """
import json, sys
absent, folder, image = set(json.loads(sys.argv[1])), sys.argv[2], sys.argv[3]
sys.path = [entry for entry in sys.path if entry and not entry.startswith(sys.argv[4])]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
for name in absent:
    sys.modules[name] = None  # as if it were not installed
import mlflow, pandas
model = mlflow.pyfunc.load_model(folder, model_config={"device": "cpu"})
table = model.predict(pandas.DataFrame({"image": [open(image, "rb").read()]}))
import pipeline.infer
print(json.dumps([pipeline.infer.__file__, table["class"][0], table["p_bright"][0]]))
"""


def modules_beyond(requirements: list[str]) -> set[str]:
    """Installed top-level modules that belong neither to these packages nor to what they require."""
    from packaging.requirements import Requirement

    seen, todo = set(), [Requirement(line).name.lower() for line in requirements]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        parsed = [Requirement(line) for line in required]
        todo += [r.name.lower() for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    normal = {name.replace("_", "-") for name in seen}
    owners = metadata.packages_distributions()
    beyond = {m for m, names in owners.items() if not any(n.lower().replace("_", "-") in normal for n in names)}
    return beyond - {"pipeline"} - set(sys.stdlib_module_names)


def test_it_answers_in_another_process_with_its_own_code_and_its_requirements_alone(build, competition, tmp_path):
    folder, expected = build(Task("class", "softmax", TWO))
    requirements = (folder / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line for line in requirements)
    absent = modules_beyond(requirements)
    assert {"cleanlab", "optuna", "onnx", "rich"} <= absent
    image = competition.test_rows[0]["path"]
    script = tmp_path / "elsewhere.py"
    script.write_text(ELSEWHERE)
    command = [
        sys.executable,
        "-I",
        str(script),
        json.dumps(sorted(absent)),
        str(folder),
        image,
        str(ROOT) + "/pipeline",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    place, answer, probability = json.loads(done.stdout.splitlines()[-1])
    assert Path(place).is_relative_to(folder / "code")
    assert answer == words(competition, expected)[0] and abs(probability - expected[0, 0]) <= 1e-6


def test_a_package_says_nothing_of_the_machine_and_holds_no_pickle(build):
    folder, _ = build(Task("class", "softmax", TWO))
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert not {name for name in names if name.endswith((".pkl", ".pickle", ".pyc"))}
    for path in (folder / "MLmodel", folder / "conda.yaml", folder / "python_env.yaml"):
        assert str(ROOT) not in path.read_text() and str(folder.parent) not in path.read_text()
    example = Image.open(BytesIO(package.example()))
    assert example.format == "JPEG"
    [[kept]] = json.loads((folder / "serving_input_example.json").read_text())["dataframe_split"]["data"]
    assert base64.b64decode(kept) == package.example()  # drawn, and no photo of the organisers'


def score(value: float, half: float = 0.01, metric: str = "macro_f1", greater: bool = True, run: str = "run") -> Score:
    return Score(metric, value, value - half, value + half, greater, run, "folds")


@pytest.mark.parametrize(
    ("new", "old", "paired", "better"),
    [
        (score(0.91), score(0.90), None, False),  # within sqrt(2) * 0.01
        (score(0.914), score(0.90), None, False),
        (score(0.915), score(0.90), None, True),
        (score(0.89), score(0.90), None, False),
        (score(0.905), score(0.90), 0.001, True),  # the paired judge is sharper, and decides
        (score(0.93), score(0.90), -0.001, False),
        (score(0.40, greater=False, metric="rmse"), score(0.50, greater=False, metric="rmse"), None, True),
        (score(0.50, greater=False, metric="rmse"), score(0.40, greater=False, metric="rmse"), None, False),
        (score(0.99), score(0.50, metric="accuracy"), None, False),
        (score(0.99), None, None, False),
        (score(float("nan")), score(0.9), None, False),
    ],
)
def test_a_champion_is_beaten_by_more_than_its_interval_allows_to_chance(new, old, paired, better):
    got, why = beats(new, old, paired)
    assert got == better and why


def test_an_interval_of_an_older_version_dethrones_nobody_unless_it_was_made_again():
    old = Score.of({key: value for key, value in score(0.90).tags().items() if key != "resampled"})
    got, why = beats(score(0.99), old)
    assert not got and "older version" in why
    assert beats(score(0.99), old, 0.01)[0] and beats(score(0.99), dataclasses.replace(old, by_units=True))[0]


def test_the_facing_halves_of_uneven_intervals_count():
    new, old = Score("f", 0.95, 0.94, 0.99, True, "", ""), Score("f", 0.93, 0.80, 0.945, True, "", "")
    assert beats(new, old)[0]  # sqrt(0.01^2 + 0.015^2) = 0.0180 < 0.02
    assert not beats(dataclasses.replace(new, low=0.93), old)[0]


def test_noise_does_not_move_the_champion_and_a_gain_and_a_request_do(build, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "RUNS", tmp_path / "mlruns")
    monkeypatch.setattr(tracking, "ARTIFACTS", tmp_path / "mlruns/artifacts")
    monkeypatch.setattr(tracking, "LOCAL_STORE", f"sqlite:///{tmp_path / 'mlflow.db'}")
    tracker = tracking.Tracker("small")
    assert tracker.failure == ""
    client, (folder, _) = tracker.client, build(Task("class", "softmax", TWO))
    assert registry.champion(client, "small") is None and registry.versions(client, "small") == []

    def log(value: float, name: str, **pairs) -> registry.Version:
        run = tracker.start(name, {})
        number = tracker.ensemble(run, "small", folder, score(value, run=run), [name], **pairs)
        tracker.end(run)
        [made] = [version for version in registry.versions(client, "small") if version.number == number]
        return made

    def leader() -> str:
        return registry.champion(client, "small").number

    assert log(0.90, "first").why == "Champion: the first of its name."
    noise = log(0.905, "noise")
    assert (noise.number, leader()) == ("2", "1")
    assert noise.why.startswith("Not the champion: ") and "+0.0050 is not above 0.0141" in noise.why
    assert (log(0.95, "gain").number, leader()) == ("3", "3")
    best = registry.champion(client, "small")
    assert best.score == score(0.95, run=best.run_id)

    again = tracker.ensemble(best.run_id, "small", folder, best.score, ["gain"])  # after a kill: found, not doubled
    assert again == "3" and len(registry.versions(client, "small")) == 3
    assert (log(0.951, "in pairs", against=best.run_id, pairs=0.0004).number, leader()) == ("4", "4")
    assert (log(0.952, "pairs of old", against=best.run_id, pairs=0.0004).number, leader()) == ("5", "4")
    registry.set_champion(client, "small", "2")
    assert leader() == "2"

    fetched = package.download(client, "small", "3", tmp_path / "fetched")
    assert (fetched / "served_model.py").is_file()
    model = mlflow.pyfunc.load_model(str(fetched))
    assert len(model.predict(pd.DataFrame({"image": [package.example()]}))) == 1
    logged = [m for m in client.search_logged_models([tracker.experiment_id]) if m.source_run_id == best.run_id]
    assert [(str(m.status), m.model_type) for m in logged] == [("READY", "ensemble")]
    assert [o.model_id for o in client.get_run(best.run_id).outputs.model_outputs] == [logged[0].model_id]
    tracker.let_go()


def test_a_package_that_mlflow_could_not_take_is_kept_and_registered_by_the_next_command(build, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "RUNS", tmp_path / "mlruns")
    monkeypatch.setattr(tracking, "ARTIFACTS", tmp_path / "mlruns/artifacts")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = tracking.Tracker("small")
    assert tracker.failure
    folder, _ = build(Task("class", "softmax", TWO))
    run = tracker.start("cv", {})
    assert tracker.ensemble(run, "small", folder, score(0.9, run=run), ["a"]) == ""
    tracker.end(run)
    tracker.let_go()
    shutil.rmtree(folder)  # as `models.log_model` leaves it

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr(tracking, "LOCAL_STORE", f"sqlite:///{tmp_path / 'mlflow.db'}")
    after = tracking.Tracker("small")
    assert after.failure == "" and after.earlier.n_sent == 3
    best = registry.champion(after.client, "small")
    assert best.number == "1" and best.score.cv_run == best.run_id == tracking.real_id(run, tmp_path / "mlruns/outbox")
    fetched = package.download(after.client, "small", "1", tmp_path / "fetched")
    assert len(mlflow.pyfunc.load_model(str(fetched)).predict(pd.DataFrame({"image": [package.example()]}))) == 1
    assert [path.name for path in (tmp_path / "mlruns/outbox").iterdir()] == ["ids.json"]
    after.let_go()

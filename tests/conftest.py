"""What every test stands on: one thread, no network, small competitions made on the spot, and a copy of the repository."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["OMP_NUM_THREADS"] = "1"

import csv
import importlib
import io
import pkgutil
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import pipeline
from pipeline.config.data import CsvCompetition
from pipeline.config.settings import ROOT, Experiment

torch.set_num_threads(1)


@pytest.fixture
def write_csv() -> Callable[[Path, Sequence[str], Sequence[Sequence[object]]], None]:
    def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])

    return write


@pytest.fixture
def small_competition(tmp_path: Path, write_csv) -> Path:
    """A folder with 24 training and 6 test images of 2 classes, 8 groups: bright squares and dark ones."""
    root = tmp_path / "small"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)

    def image(name: str, bright: bool) -> None:
        pixels = rng.integers(160, 255, (12, 10)) if bright else rng.integers(0, 90, (12, 10))
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{name}.png")

    train = [(f"a{i:02d}", "bright" if i % 2 else "dark", f"g{i // 3}") for i in range(24)]
    test = [(f"t{i}", "dark") for i in range(6)]
    for name, label, _ in train:
        image(name, label == "bright")
    for i, (name, _) in enumerate(test):
        image(name, bool(i % 2))
    write_csv(root / "train.csv", ["image_id", "label", "group"], train)
    write_csv(root / "sample_submission.csv", ["image_id", "label"], test)
    return root


@pytest.fixture
def small_settings(small_competition: Path) -> CsvCompetition:
    return CsvCompetition(source="csv", name="small", root=str(small_competition))


@pytest.fixture
def experiment(small_settings: CsvCompetition) -> Callable[..., Experiment]:
    """Settings over the small competition; keyword arguments are sections as plain data."""

    def make(**sections) -> Experiment:
        return Experiment.model_validate(
            {
                "competition": small_settings.model_dump(),
                "images": {"mode": "L", "px": 32, "crop": 1.0, "interpolation": "bicubic", "mean": [0.5], "std": [0.5]},
                "model": {"name": "test_resnet"},
                "train": {"epochs": 2, "batch_size": 8},
                "folds": {"k": 2},
            }
            | sections
        )

    return make


FOLDERS = (".ci", "benchmarks", "experiments", "pipeline", "tests")


def own_files() -> list[Path]:
    """The repository's own files, found without git, which a machine with python3, pip and make need not have."""
    # In a worktree of git's, `.git` is a file that holds a path of this machine.
    files = [path for path in ROOT.iterdir() if path.is_file() and path.name != ".git"]
    files.append(ROOT / "mlruns" / ".gitkeep")
    for folder in FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return files


class Checkout:
    """A copy of the repository's own files in a folder of its own, with the tests' environment to run it in."""

    def __init__(self, root: Path):
        self.root = root
        for path in own_files():
            target = root / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)

    @property
    def runs(self) -> Path:
        return self.root / "mlruns"

    def edit(self, experiment: str, **sections) -> None:
        """Changes sections of an experiment's YAML, key by key."""
        path = self.root / experiment
        data = yaml.safe_load(path.read_text())
        for section, values in sections.items():
            data.setdefault(section, {}).update(values)
        path.write_text(yaml.safe_dump(data))

    def pipeline(self, *arguments: str, expect: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """`python -m pipeline ARGUMENTS` with the copy's own code."""
        return self._run([sys.executable, "-m", "pipeline", *arguments], expect, environment)

    def make(self, *arguments: str, expect: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """`make ARGUMENTS`, on the virtual environment that runs the tests."""
        return self._run(["make", f"VENV={sys.prefix}", *arguments], expect, environment)

    def main(self, *arguments: str, expect: int = 0) -> tuple[str, str]:
        """(stdout, stderr) of the same command within this process, which has paid for the imports already.

        The package is the repository's own, looking at the copy's root.
        """
        for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
            if module.name != "pipeline.__main__":
                importlib.import_module(module.name)  # before the patch, or it would keep the copy's root
        from pipeline.__main__ import main

        runs = self.runs
        here = {
            "ROOT": self.root,
            "RUNS": runs,
            "LOCAL_STORE": f"sqlite:///{runs / 'mlflow.db'}",
            "ARTIFACTS": runs / "artifacts",
        }
        out, err = io.StringIO(), io.StringIO()
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            for name, module in list(sys.modules.items()):
                for constant in here.keys() & vars(module).keys() if name.startswith("pipeline.") else ():
                    patch.setattr(module, constant, here[constant])
            status = main([str(self.root / a) if a.endswith(".yaml") else a for a in arguments])
        signal.signal(signal.SIGTERM, handler)
        assert status == expect, f"{arguments} gave {status}\n{out.getvalue()}\n{err.getvalue()}"
        return out.getvalue(), err.getvalue()

    def environment(self, **more: str) -> dict[str, str]:
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "MLFLOW_T"))
        }
        return {**inherited, **more}

    def _run(self, command: list[str], expect: int, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.root, env=self.environment(**environment), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == expect, f"{' '.join(command)} gave {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done


# `make submit` in a fresh copy takes half a minute, most of it imports. It starts on the second core as soon as it is
# known that a test needs it, and the tests that come first run meanwhile.
KEY = pytest.StashKey[tuple[Checkout, subprocess.Popen[str]]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly or not any("first" in getattr(i, "fixturenames", ()) for i in session.items):
        return
    checkout = Checkout(Path(tempfile.mkdtemp(prefix="podium-first-")))
    checkout.edit("experiments/digits.yaml", folds={"k": 2}, train={"epochs": 1})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = ["make", f"VENV={sys.prefix}", "submit"]
    process = subprocess.Popen(command, cwd=checkout.root, env=checkout.environment(), **pipes)
    session.config.stash[KEY] = checkout, process


def pytest_unconfigure(config: pytest.Config) -> None:
    if KEY in config.stash:
        checkout, process = config.stash[KEY]
        process.kill()
        shutil.rmtree(checkout.root, ignore_errors=True)


@pytest.fixture(scope="session")
def first(request) -> tuple[Checkout, str]:
    """(a copy of the repository after its first `make submit`, with 2 folds of 1 epoch; what that printed)"""
    checkout, process = request.config.stash[KEY]
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return checkout, output


@pytest.fixture
def finished(first, tmp_path: Path) -> Checkout:
    """A copy of that copy, to change."""
    checkout = object.__new__(Checkout)
    checkout.root = tmp_path / "copy"
    shutil.copytree(first[0].root, checkout.root)
    return checkout


@contextmanager
def serving(checkout: Checkout, target: str) -> Generator[tuple[str, str]]:
    """(address, what was printed) of `make ui` or `make serve`, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = shlex.split(checkout.make("-n", target, f"PORT={port}").stdout.strip().splitlines()[-1])
    process = subprocess.Popen(command, cwd=checkout.root, env=checkout.environment(http_proxy="http://127.0.0.1:9"),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        else:
            raise AssertionError("".join(lines))
        yield f"http://127.0.0.1:{port}", "".join(lines)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stdout.close()


def only_here(address: str) -> bool:
    """Whether the port is listened on by 127.0.0.1 and by no other address."""
    port = int(address.rpartition(":")[2])
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = {line.split()[1] for line in lines if line.split()[3] == "0A"}
    return f"0100007F:{port:04X}" in listening and f"00000000:{port:04X}" not in listening


@pytest.fixture(scope="session")
def make_checkout(tmp_path_factory) -> Callable[[str], Checkout]:
    return lambda name: Checkout(tmp_path_factory.mktemp(name))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A store without runs: MLflow needs seconds to create one, so it is made once and copied."""
    import mlflow

    from pipeline.tracking import place

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    place.make(database, database.with_name("artifacts"))
    mlflow.MlflowClient(place.uri_of(database))
    return database


@pytest.fixture
def settle_in(monkeypatch, empty_database):
    """Makes a folder this process's `mlruns`, with a store that is there, or else an empty one."""
    from pipeline.tracking import place
    from pipeline.tracking import runs as tracking

    def settle(runs: Path) -> Path:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        runs.mkdir(parents=True, exist_ok=True)
        if not (runs / "mlflow.db").exists():
            shutil.copy(empty_database, runs / "mlflow.db")
        monkeypatch.setattr(tracking, "RUNS", runs)
        monkeypatch.setattr(tracking, "LOCAL_STORE", place.uri_of(runs / "mlflow.db"))
        monkeypatch.setattr(tracking, "ARTIFACTS", runs / "artifacts")
        return runs

    return settle


@pytest.fixture
def store(settle_in, tmp_path):
    return settle_in(tmp_path)


@pytest.fixture
def begin(store):
    """Trackers that let go when the test is over, as commands do when they end."""
    from pipeline.tracking.runs import Tracker

    made = []

    def start(name: str) -> Tracker:
        made.append(Tracker(name))
        return made[-1]

    yield start
    for tracker in made:
        tracker.let_go()

"""SIGKILL at random moments of whole commands: `make submit` from nothing, gone on with by the same command.

    .venv/bin/python benchmarks/kills.py [--n 30] [--seed 0]

Works in a copy of the tracked files, on the digits with two folds of two epochs. Each time all that the competition has
in mlruns/ is removed (the image store too; only MLflow's database stays), the command is started, killed with all its
processes at a moment drawn over its whole length, and run again. Compared with an undisturbed run: the bytes of the
checkpoints, the out-of-fold table and the submission. And MLflow's record must be whole: no run RUNNING, one version
of the registered model for each training, nothing waiting. Prints one line a kill, and at the end the count and one
line of JSON.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "pipeline", "submit", "experiments/digits.yaml", "train.epochs=2", "folds.k=2",
           "images.px=16", "train.batch_size=64"]  # fmt: skip
COMPARED = (".safetensors", ".parquet", ".csv")


def start(tree: Path, log: Path) -> subprocess.Popen:
    with log.open("w") as file:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(COMMAND, cwd=tree, stdout=file, stderr=file, env=environment, start_new_session=True)


def made(tree: Path) -> dict[str, str]:
    """Path below mlruns/digits -> hash of the file."""
    folder = tree / "mlruns/digits"
    files = [path for path in sorted(folder.rglob("*")) if path.suffix in COMPARED]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def litter(tree: Path) -> list[str]:
    """What a finished command may not leave: half-written files and states of training."""
    files = (path for path in (tree / "mlruns").rglob("*") if path.is_file())
    return [str(path.relative_to(tree)) for path in files if path.suffix in (".tmp", ".state", ".previous")]


def record_faults(tree: Path) -> list[str]:
    """What MLflow's record may not say once the command has gone on: read from its database itself."""
    with closing(sqlite3.connect(tree / "mlruns/mlflow.db")) as store:
        running = store.execute("select count(*) from runs where status = 'RUNNING'").fetchone()[0]
        trained = store.execute("""select run_uuid from runs where status = 'FINISHED' and run_uuid in
                                   (select run_uuid from tags where key = 'stage' and value = 'cv')""")
        versions = Counter(row[0] for row in store.execute("select run_id from model_versions"))
        faults = [f"{running} runs RUNNING"] * bool(running)
        faults += [f"{versions[run]} versions of a training" for (run,) in trained if versions[run] != 1]
    waiting = [path.name for path in (tree / "mlruns/outbox").rglob("*") if path.name != "ids.json" and path.is_file()]
    return faults + [f"{name} in the outbox" for name in waiting]


def clear(tree: Path) -> None:
    for name in ("digits", "cache"):
        shutil.rmtree(tree / "mlruns" / name, ignore_errors=True)


def whole(tree: Path, log: Path) -> dict[str, str]:
    if start(tree, log).wait():
        raise SystemExit(log.read_text()[-3000:])
    return made(tree)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tree, log = Path(scratch) / "tree", Path(scratch) / "log.txt"
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
        for name in tracked.split("\0")[:-1]:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
        whole(tree, log)  # MLflow's database is made only once
        clear(tree)
        before = time.perf_counter()
        expected = whole(tree, log)
        seconds = time.perf_counter() - before
        print(f"undisturbed: {seconds:.1f} s, {len(expected)} files", flush=True)
        moments, kills = np.random.default_rng(args.seed), []
        while len(kills) < args.n:
            clear(tree)
            process, at = start(tree, log), moments.uniform(0, seconds)
            time.sleep(at)
            if process.poll() is not None:  # done already; it does not count
                continue
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            found = len(made(tree))
            same = whole(tree, log) == expected and not litter(tree)
            faults = record_faults(tree)
            kills.append({"at": round(at, 1), "found": found, "same": same, "record": faults})
            told = f"{'same' if same else 'OTHER'}; {'; '.join(faults) or 'the record is whole'}"
            print(f"{len(kills):3d}  after {at:5.1f} s, with {found} files: {told}", flush=True)
        n_same = sum(kill["same"] for kill in kills)
        n_whole = sum(not kill["record"] for kill in kills)
        print(
            f"{n_same} of {len(kills)} kills ended in the same bytes, {n_whole} in a whole record\n{json.dumps(kills)}"
        )
        sys.exit(0 if n_same == n_whole == len(kills) else 1)


if __name__ == "__main__":
    main()

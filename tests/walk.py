"""A walk through every file operation, as SQLite tests itself: `walk.py SAMPLE SEED`, in a copy of the repository.

Run by `test_walk` (a seeded sample) and `benchmarks/faults.py` (SAMPLE=0: all). A small `eda`, `train` and `submit` run
in processes forked from this one, which has imported everything, with an audit hook that counts what they open to
write, rename, remove or make below the copy. At the n-th such operation the process is killed, or from there on the
disk is full, or that one operation fails, or `mlruns/tiny` is removed. Then the same command runs undisturbed, and must
end as one that was never disturbed: the same folds, out-of-fold values and submission, and no file more. Prints one
line of JSON for each case.
"""

import errno
import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

ROOT = Path.cwd()
RUNS = ROOT / "mlruns"
VERBS = ("eda", "train", "submit")
KINDS = ("kill", "full", "once", "gone")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MAKES = ("open", "os.mkdir", "os.rename")  # what a full disk refuses
YAML = """competition: {source: csv, name: tiny, root: data/tiny}
images: {mode: RGB, px: 32, crop: 1.0, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
model: {name: test_resnet}
folds: {k: 2}
train: {epochs: 1, batch_size: 8, precision: fp32, channels_last: true}
"""


def lay_out() -> None:
    images = ROOT / "data/tiny/images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    tables = {
        "train.csv": [f"a{i:02d},{'ab'[i % 2]}" for i in range(16)],
        "sample_submission.csv": [f"t{i},a" for i in range(4)],
    }
    for name, rows in tables.items():
        (images.parent / name).write_text("\n".join(["image_id,label", *rows]) + "\n")
        for row in rows:
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(images / f"{row.split(',')[0]}.png")
    (ROOT / "experiments/tiny.yaml").write_text(YAML)


class Hook:
    """Counts operations, and does what `kind` says at the one that is numbered `at`."""

    def __init__(self, kind: str, at: int):
        self.kind, self.at, self.operations = kind, at, []

    def __call__(self, event: str, words: tuple) -> None:
        if event == "open":
            if not (isinstance(words[0], str | bytes | os.PathLike) and words[2] & WRITES):
                return
        elif event not in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            return
        path = os.path.abspath(os.fsdecode(words[0])) if not isinstance(words[0], int) else ""
        if not path.startswith(f"{ROOT}/") or "__pycache__" in path:
            return
        self.operations.append(f"{event} {os.path.relpath(path, ROOT)}")
        n = len(self.operations)
        if self.kind == "gone" and n == self.at:
            self.kind = "none"
            shutil.rmtree(RUNS / "tiny", ignore_errors=True)
        if self.kind == "kill" and n == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        if (self.kind == "once" and n == self.at) or (self.kind == "full" and n >= self.at and event in MAKES):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def run(verb: str, kind: str = "none", at: int = 0) -> tuple[int, str, dict]:
    """(exit status, what was printed, what the process noted) of a command in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        said, noted = Path(scratch) / "said", Path(scratch) / "noted"
        if (pid := os.fork()) == 0:
            output = os.open(said, os.O_WRONLY | os.O_CREAT)
            os.dup2(output, 1)
            os.dup2(output, 2)
            status, hook = 70, Hook(kind, at)
            try:
                from pipeline.__main__ import main

                sys.addaudithook(hook)
                status = main([verb, "experiments/tiny.yaml"])
            except SystemExit as stop:
                status = int(stop.code or 0)
            except BaseException:
                traceback.print_exc()
            hook.kind = "none"
            sys.stdout.flush()
            modules = [name for name in sys.modules if not name.startswith("__")]
            noted.write_text(json.dumps({"operations": hook.operations, "modules": modules}))
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status, said.read_text(errors="replace"), json.loads(noted.read_text()) if noted.exists() else {}


def result(verb: str) -> dict:
    """What a finished command may not change, and the names of all files but those of MLflow."""
    folder, found = RUNS / "tiny", {}
    for name in ("folds.csv", "submission.csv"):
        found[name] = (folder / name).read_bytes().hex() if (folder / name).exists() else ""
    for path in sorted(folder.glob("train-*/oof.parquet")):
        found["oof"] = np.round(pd.read_parquet(path).filter(like="p_").to_numpy(), 12).tolist()
    findings = json.loads((folder / "eda/findings.json").read_text())
    found["findings"] = {key: value for key, value in findings.items() if key != "made"}
    files = [path.relative_to(ROOT) for path in RUNS.rglob("*") if path.is_file() or path.is_symlink()]
    files += [path.relative_to(ROOT) for folder in ("experiments", "data") for path in (ROOT / folder).rglob("*")]
    names = {re.sub(r"[0-9a-f]{32}", "RUN", str(path)) for path in files}
    ours = re.compile(r"mlruns/(artifacts/|mlflow\.db|\.open/?|\.\w+\.lock$)")
    found["files"] = sorted(name for name in names if not ours.match(name))
    return found


def case(verb: str, kind: str, at: int, operation: str, before: Path, expected: dict) -> dict:
    shutil.rmtree(RUNS)
    shutil.copytree(before, RUNS, symlinks=True)
    status, said, _ = run(verb, kind, at)
    wrong = []
    if kind == "kill" and status != -signal.SIGKILL:
        wrong.append(f"was not killed but ended with {status}")
    elif kind != "kill" and ("Traceback" in said or status not in (0, 1, 2)):
        wrong.append(f"status {status} and a traceback: {said.strip().splitlines()[-1][:300]}")
    elif status > 0 and ("removed" if kind == "gone" else "space") not in said:
        wrong.append(f"status {status} without naming why: {said.strip().splitlines()[-1:]}")
    status_again, again, _ = run(verb)
    if status_again or "Traceback" in again:
        wrong.append(f"afterwards status {status_again}: {again.strip().splitlines()[-1:]}")
    else:
        now = result(verb)
        wrong += [f"other {name}" for name in expected if name != "files" and now.get(name) != expected[name]]
        if kind == "gone":  # what MLflow never took, for its file was gone, stays there
            now["files"] = [name for name in now["files"] if not name.startswith("mlruns/outbox/")]
        if status == 0 and "space" in said:  # a picture for MLflow that a full disk refused is a warning
            now["files"] += [name for name in expected["files"] if name.endswith(".png")]
        for sign, names in (("more", set(now["files"]) - set(expected["files"])),
                            ("fewer", set(expected["files"]) - set(now["files"]))):  # fmt: skip
            wrong += [f"{sign}: {', '.join(sorted(names)[:4])}"] if names else []
    return {"verb": verb, "kind": kind, "at": at, "operation": operation, "status": status, "wrong": wrong}


def main(sample: int, seed: int) -> int:
    lay_out()
    run("runs")  # makes MLflow's database, which takes longer than all the rest
    cases, before = [], Path(tempfile.mkdtemp())
    states: dict[str, tuple[Path, dict]] = {}
    for verb in VERBS:
        shutil.copytree(RUNS, before / verb, symlinks=True)
        status, said, noted = run(verb)
        assert status == 0, said
        for name in noted["modules"] if verb == "submit" else ():
            try:
                importlib.import_module(name)  # or every process would import them anew
            except Exception:  # noqa: S112 - some modules cannot be imported by themselves
                continue
        states[verb] = before / verb, result(verb)
        names = noted["operations"]
        cases += [(verb, kind, at, name) for kind in KINDS for at, name in enumerate(names, 1)]
    if sample:
        cases = [cases[i] for i in np.random.default_rng(seed).choice(len(cases), sample, replace=False)]
    n_wrong = 0
    for verb, kind, at, name in cases:
        report = case(verb, kind, at, name, *states[verb])
        n_wrong += bool(report["wrong"])
        print(json.dumps(report), flush=True)
    shutil.rmtree(before)
    return n_wrong


if __name__ == "__main__":
    sys.exit(min(main(int(sys.argv[1]), int(sys.argv[2])), 1))

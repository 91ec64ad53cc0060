"""Receipts: how a stage knows that it has nothing to do, and what changed where it has.

A finished stage leaves `mlruns/NAME/VERB.json`: every input by name (settings by dotted path, hashes of data and of
what earlier stages made), their fingerprint, the files it made with their hashes, its MLflow run and its figures.
Inputs are compared by content, so touching a file changes nothing. The code is noted beside the inputs, not among
them: a pull that touches the loop must not throw away a night of training, so it is said, and FORCE=1 acts on it.
"""

import getpass
import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline import kept
from pipeline.config.secrets import hidden
from pipeline.config.settings import ROOT, fingerprint
from pipeline.kept import sha256

_DATA = ("competition", "images")
ROOMS = {  # whose code a stage's result comes from
    "eda": (*_DATA, "eda", "report"),
    "folds": (*_DATA, "folds"),
    "train": (
        *(*_DATA, "metrics", "task", "losses", "optim", "augment", "feed", "model", "average", "precision", "predict"),
        *("records", "resume", "train", "crossval"),
    ),
    "pseudo": (
        *(*_DATA, "metrics", "task", "losses", "optim", "augment", "feed", "model", "average", "precision", "predict"),
        *("records", "resume", "train", "crossval", "pseudo", "stream", "views"),
    ),
    "tune": (
        *(*_DATA, "metrics", "task", "losses", "optim", "augment", "feed", "model", "average", "precision", "predict"),
        *("records", "resume", "train", "crossval", "lr_range", "compare", "tune"),
    ),
    "submit": (
        *(*_DATA, "metrics", "task", "augment", "model", "views", "predict", "infer", "stream", "compare", "ensemble"),
        *("answers", "expected", "leaderboard", "shares", "submit"),
    ),
    "score": (*_DATA, "metrics", "answers", "score"),
}


@dataclass(frozen=True)
class Receipt:
    verb: str
    inputs: dict[str, Any]
    fingerprint: str
    artifacts: dict[str, dict[str, Any]]  # name -> path from mlruns/NAME/, sha256, bytes
    figures: dict[str, Any]
    code: dict[str, str]  # file -> hash, of the rooms that this stage's results come from
    code_version: str
    run_id: str = ""  # MLflow's, or one of ours where that could not be reached (tracking/outbox.py)
    made_at: str = ""
    wall_s: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)  # all resolved settings, those without influence too


def read(folder: Path, verb: str) -> Receipt | None:
    """The receipt of the stage's last finished run, or None."""
    path = folder / f"{verb}.json"
    if kept.was_changed(path):
        return None
    try:
        receipt = Receipt(**json.loads(path.read_text()))
        known = all({"path", "sha256"} <= made.keys() for made in receipt.artifacts.values())
        if known and all(isinstance(part, dict) for part in (receipt.inputs, receipt.figures, receipt.code)):
            return receipt
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, RecursionError):  # of another version, or no receipt
        pass
    kept.tell(path)
    return None


def write(folder: Path, receipt: Receipt) -> None:
    with kept.sealed(folder / f"{receipt.verb}.json") as temporary:
        temporary.write_text(json.dumps(asdict(receipt), indent=1))


def remove(folder: Path, verb: str) -> None:
    """The stage counts as unfinished from here on."""
    kept.remove(folder / f"{verb}.json")


def changes(receipt: Receipt | None, inputs: dict[str, Any], folder: Path, fetchable: bool = True) -> list[str]:
    """Why the stage must run again; empty: it need not. fetchable: a file that MLflow holds may be absent here."""
    if receipt is None:
        return ["not made yet"]
    if receipt.fingerprint != fingerprint(inputs):
        names = sorted(inputs.keys() | receipt.inputs.keys())
        return [
            f"{name} changed ({_short(receipt.inputs.get(name, 'none'))} to {_short(inputs.get(name, 'none'))})"
            for name in names
            if receipt.inputs.get(name) != inputs.get(name)
        ]
    absent = {name for name, made in receipt.artifacts.items() if not (folder / made["path"]).is_file()}
    other = [f"{name} is not the file that was made" for name in changed(receipt, folder)]
    return other + ([] if fetchable and receipt.run_id else [f"{name} is gone" for name in sorted(absent)])


def changed(receipt: Receipt, folder: Path) -> list[str]:
    """Names of files that are there and are not those that the stage made, by their content."""
    there = {name: folder / made["path"] for name, made in receipt.artifacts.items()}
    return [
        name for name, path in there.items() if path.is_file() and sha256(path) != receipt.artifacts[name]["sha256"]
    ]


def artifact(path: Path, folder: Path) -> dict[str, Any]:
    """A finished file as a receipt remembers it."""
    return {"path": str(path.relative_to(folder)), "sha256": sha256(path), "bytes": path.stat().st_size}


def code_hashes(rooms: Iterable[str]) -> dict[str, str]:
    """Hash of each source file of the rooms, by its path in the repository."""
    files: list[Path] = []
    for room in rooms:
        path = ROOT / "pipeline" / room
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return {str(file.relative_to(ROOT)): sha256(file)[:12] for file in files}


def code_version() -> str:
    """`git describe` (`-dirty` with uncommitted changes); without git, a hash of the package's source."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(ROOT.parent)}  # not the repository around a bare copy
    try:
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, check=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        files = sorted((ROOT / "pipeline").rglob("*.py"))
        return "source-" + fingerprint([[str(file.relative_to(ROOT)), sha256(file)] for file in files])


def user() -> str:
    """Who ran it, as MLflow's own client would say; a container may not know."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def uncommitted() -> str:
    """`git diff HEAD` of the package and the experiments, at most a megabyte; empty without changes or without git."""
    command = ["git", "-C", str(ROOT), "diff", "HEAD", "--no-color", "--no-ext-diff", "--", "pipeline", "experiments"]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(ROOT.parent)}
    try:
        done = subprocess.run(command, capture_output=True, env=environment, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return hidden(done.stdout[:1_000_000].decode(errors="replace"))  # it may hold the URL of a search


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:21]}..."

"""A submission from scratch: the code, settings and folds of its record, trained anew, and its file compared."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline import receipts
from pipeline.competition.paths import DATA
from pipeline.config.mistakes import Mistake, Mistakes, Stopped, shown
from pipeline.config.settings import ROOT, RUNS
from pipeline.stages.blend_record import RecordedMember
from pipeline.stages.members import Models, file_of
from pipeline.stages.record import connect
from pipeline.stages.verify import need_git, rebuilt, recorded, told
from pipeline.work import Work, say


def reproduce(work: Work, wanted: str) -> int:
    """Trains every model behind the submission anew, from the code that trained it. The exit status: 0 if identical.

    Each run's code is checked out under `mlruns/reproduce/`, where its training goes on if it is interrupted.
    """
    from pipeline.tracking.browse import files

    need_git()
    path, record = recorded(work, wanted)
    tracker = connect(work.settings)
    members = []
    for number, member in enumerate(record.members):
        try:
            tags = {"code_version": "", **tracker.client.get_run(member.run).data.tags}
        except Exception as error:  # MLflow raises many kinds; each means that there is no record of it
            found = f"MLflow has no run {member.run[:8]} ({type(error).__name__})"
            raise Mistakes([Mistake("submission", found, "valid: a store that holds its trainings", "runs")]) from error
        say(
            "reproduce",
            f"run {number + 1} of {len(record.members)}: {member.run[:8]}, code {tags['code_version']}",
        )
        changed = "uncommitted.diff" in files(tracker, member.run)
        code = _checked_out(member.run, tags["code_version"].removesuffix("-dirty"), changed)
        members.append(_trained(code, member, tags))
    again = rebuilt(work, record, members)
    return told(work, record, path, again, "reproduce")


def _checked_out(run_id: str, commit: str, changed: bool) -> Path:
    """A work tree with the code of a run: its commit, and what was changed in the package and not committed then."""
    if not re.fullmatch(r"\w[\w.-]*", commit):
        raise Stopped(f"run {run_id[:8]} was made by code {commit!r}, which names no commit")
    name = f"{commit}-{run_id[:8]}" if changed else commit
    place = RUNS / "reproduce" / name / "code"
    if (place / ".podium-whole").is_file():
        return place
    shutil.rmtree(place.parent, ignore_errors=True)
    place.parent.mkdir(parents=True)
    _git(ROOT, "worktree", "prune")
    try:
        _git(ROOT, "worktree", "add", "--detach", "--force", str(place), commit)
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()[-1:] or [""]
        raise Stopped(f"code {commit} cannot be checked out ({reason[0]}); git fetch what is missing") from error
    if changed:
        changes = file_of(run_id, "uncommitted.diff")
        try:
            _git(place, "apply", "--whitespace=nowarn", str(changes.absolute()))
        except subprocess.CalledProcessError as error:
            raise Stopped(f"what was changed in the code and not committed then does not apply to {commit}: it was too "
                          "much to be kept whole") from error  # fmt: skip
    (place / ".podium-whole").touch()
    return place


def _git(where: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(where), *words], capture_output=True, text=True, check=True).stdout


def _trained(code: Path, member: RecordedMember, tags: Mapping[str, str]) -> Models:
    """The run's models, trained anew in its own code with its own settings."""
    settings = yaml.safe_load(file_of(member.run, "settings.yaml").read_text())
    experiment = f"reproduced-{member.run[:8]}"
    (code / "experiments" / f"{experiment}.yaml").write_text(yaml.safe_dump(settings))
    for relative in _relative_paths(settings):
        _link(code, relative)
    verb = "pseudo" if "pseudo_of" in tags else "train"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_TRACKING")}
    environment.setdefault(DATA, str(ROOT / "data"))
    if not os.path.isabs(environment[DATA]):
        environment[DATA] = str(ROOT / environment[DATA])
    if tags.get("env.threads", "").isdecimal():
        environment["OMP_NUM_THREADS"] = tags["env.threads"]
    command = [_python(code), "-m", "pipeline", verb, f"experiments/{experiment}.yaml"]
    status = subprocess.run(command, cwd=code, env=environment).returncode
    if status:
        raise Stopped(f"the training of {member.run[:8]} in {shown(code)} ended with status {status}")
    receipt = receipts.read(code / "mlruns" / experiment, verb)
    if receipt is None:
        raise Stopped(f"the training of {member.run[:8]} in {shown(code)} left no receipt")
    files = {name: code / "mlruns" / experiment / receipt.artifacts[name]["path"] for name in member.checkpoints}
    hashes = {name: receipts.sha256(path) for name, path in files.items()}
    same = sum(same_weights(path, file_of(member.run, name)) for name, path in files.items())
    say("reproduce", f"{same} of {len(files)} models have the same weights, bit for bit; out of fold "
        f"{receipt.figures['score']:.4f}")  # fmt: skip
    return Models(member.run, member.name, list(files.values()), list(hashes.values()), member.store)


def same_weights(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold the same tensors; what else they say (by which code) may differ."""
    import torch
    from safetensors.torch import load_file

    one, other = load_file(a), load_file(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _python(code: Path) -> str:
    """This environment where the code asks for the same packages, else one of its own."""
    if (code / "requirements.lock").read_bytes() == (ROOT / "requirements.lock").read_bytes():
        return sys.executable
    say("reproduce", "its packages are other ones: installing them beside its code")
    subprocess.run(["make", "setup"], cwd=code, check=True)
    return str(code / ".venv" / "bin" / "python")


def _relative_paths(settings: Mapping[str, Any]) -> list[str]:
    """Files that the settings name from the repository's root."""
    competition = settings["competition"]
    named = [settings["model"].get("weights"), settings["folds"].get("file"), competition.get("fixes_csv"),
             competition.get("root")]  # fmt: skip
    return [path for path in named if path and path != "none" and not os.path.isabs(path) and path[:5] != "data/"]


def _link(code: Path, relative: str) -> None:
    """Makes a path from the root of the work tree lead where it leads from the repository's."""
    here, there = Path(os.path.normpath(code / relative)), Path(os.path.normpath(ROOT / relative))
    if here.exists() or not there.exists():
        return
    if RUNS not in here.parents:
        raise Stopped(f"{relative} lies too far outside the repository to be found from {shown(code)}")
    here.parent.mkdir(parents=True, exist_ok=True)
    here.symlink_to(there)

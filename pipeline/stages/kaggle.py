"""Submissions to Kaggle, through its own client, and the scores that they bring home."""

from __future__ import annotations

import csv
import io
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.config.mistakes import Mistake, Mistakes, Stopped
from pipeline.stages.board import find_submission
from pipeline.stages.record import connect
from pipeline.stages.verify import as_submitted
from pipeline.work import Work, say

SAYS = "podium run "  # how an upload is described, by which its score is found again
TOKENS = ("KAGGLE_API_TOKEN", "KAGGLE_KEY")  # environment variables
PATIENCE_S = 600  # for one call of the client: a large file may take minutes
FILES = ("access_token", "kaggle.json")  # in the client's folder


def kaggle(work: Work, wanted: str) -> int:
    """Uploads a submission that was not uploaded yet, and writes the scores that Kaggle shows to their runs."""
    from pipeline.tracking.browse import runs

    competition = work.settings.competition
    if competition.kaggle == "none":
        valid = "valid: the competition's name in its address there, e.g. SET=competition.kaggle=cassava-leaf-disease"
        raise Mistakes([Mistake("competition.kaggle", "found none, and nothing is uploaded unasked", valid, "kaggle")])
    if not has_token():
        raise Stopped("there is no Kaggle token: set KAGGLE_API_TOKEN, or put one into ~/.kaggle (your account's "
                      "settings on Kaggle make one)")  # fmt: skip
    client = Path(sys.executable).parent / "kaggle"
    if not client.is_file():
        raise Stopped("the Kaggle client is not installed: make kaggle installs it")
    tracker = connect(work.settings)
    run = find_submission(tracker, wanted, work)
    known = {one.id for one in runs(tracker, ("submission",))}
    words = ["competitions", "submissions", "-v", competition.kaggle]
    # asked, and not remembered: an upload that failed is no upload, and one whose command was killed is one
    if f"{SAYS}{run.id}" in _call(client, words) and not work.force:
        say("kaggle", f"{run.id[:8]} was uploaded to {competition.kaggle} before; FORCE=1 uploads it again")
    else:
        path = as_submitted(work, run)
        said = _call(client, ["competitions", "submit", "-f", str(path), "-m", f"{SAYS}{run.id}", competition.kaggle])
        last = said.strip().splitlines()[-1:] or [f"{run.id[:8]} uploaded"]
        if "could not" in said.lower():
            raise Stopped(f"Kaggle did not take it: {last[0]}")
        tracker.tags(run.id, {"kaggle": competition.kaggle})
        say("kaggle", last[0])
    scores = scores_of(_call(client, words), known)
    for run_id, values in scores.items():
        tracker.metrics(run_id, {f"{name}_{competition.metric}": value for name, value in values.items()})
    each = "; ".join(f"{run_id[:8]} {', '.join(f'{k} {v:.4f}' for k, v in v.items())}" for run_id, v in scores.items())
    say("kaggle", f"scores written to their runs: {each}" if each else "no score yet: make kaggle again in a minute")
    return 0


def has_token() -> bool:
    """Whether the client will find one; what it says is nobody's business here."""
    folder = Path(os.environ.get("KAGGLE_CONFIG_DIR", "") or Path.home() / ".kaggle")
    return any(os.environ.get(name) for name in TOKENS) or any((folder / name).is_file() for name in FILES)


def scores_of(table: str, known: set[str]) -> dict[str, dict[str, float]]:
    """Run id -> public and private scores, from the client's CSV of submissions; the newest where there are several.

    What it says is a stranger's: rows that name no run of ours, and scores that are no numbers, are passed over.
    """
    lines = table.splitlines()
    start = next((i for i, line in enumerate(lines) if "description" in line and "," in line), len(lines))
    found: dict[str, dict[str, float]] = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines[start:]))):
        run_id = (row.get("description") or "").removeprefix(SAYS).strip()
        values = {}
        for name in ("public", "private"):
            try:
                value = float(row.get(f"{name}Score") or "")
            except ValueError:
                continue
            if math.isfinite(value):
                values[name] = value
        if run_id in known and values:
            found.setdefault(run_id, values)
    return found


def _call(client: Path, words: Sequence[str]) -> str:
    try:
        done = subprocess.run([str(client), *words], capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise Stopped(f"Kaggle's client did not end within {PATIENCE_S} s") from error
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()
        raise Stopped(f"Kaggle's client refused: {told[-1] if told else f'status {done.returncode}'}")
    return done.stdout

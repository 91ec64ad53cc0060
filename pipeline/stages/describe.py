"""What a run's page says first: what it is, what it stands on, and the command that makes it again. In Markdown."""

from __future__ import annotations

import json
import os
import platform
import shlex
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pipeline import receipts
from pipeline.competition.contract import Competition
from pipeline.config.secrets import hidden

if TYPE_CHECKING:
    import torch

    from pipeline.work import Work

VERSIONS = ("torch", "timm", "mlflow", "numpy", "opencv-python-headless", "pillow")


def page(work: Work, what: str, lines: list[str], verb: str, parents: dict[str, str]) -> str:
    """what: one sentence. parents: text of a link -> id of a run that this one stands on."""
    code = receipts.code_version()
    links = [f"[{text}]({link(work, run_id)})" for text, run_id in parents.items() if run_id]
    made = [f"**{what}**" + (" Made from: " + " · ".join(links) if links else "")]  # MLflow shows four lines unasked
    made.append(f"`{command(work, verb)}` makes it again, at code `{code}`.")
    made += lines
    if receipts.uncommitted():
        made.append("The code had changes that were not committed: the artifact `uncommitted.diff`.")
    return "\n\n".join(made)


def link(work: Work, run_id: str) -> str:
    """To a run, within MLflow's pages."""
    return run_link(work.tracker.experiment_id, run_id)


def run_link(experiment_id: str, run_id: str) -> str:
    """Without the last part MLflow 3 shows the run among pages made for language models."""
    return f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"


def command(work: Work, verb: str) -> str:
    """As the user would type it; the settings of the call are a part of it."""
    words = ["make", verb]
    if work.experiment:
        words.append(f"EXP={work.experiment}")
    if work.overrides:
        words.append(f"SET={' '.join(work.overrides)}")
    return hidden(shlex.join(words))


def machine(device: torch.device) -> dict[str, str]:
    """Tags: versions of what computes, and on what."""
    import torch

    found = {"python": platform.python_version(), "platform": platform.platform(), "device": str(device)}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    found["cuda"] = (torch.version.cuda or "none") if device.type == "cuda" else "not used"
    found["threads"] = str(torch.get_num_threads()) if device.type == "cpu" else "not used"
    found["machine"] = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {f"env.{name}": value for name, value in found.items()}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{os.cpu_count()} x {names[0] if names else platform.processor() or platform.machine()}"


def dataset(competition: Competition, which: str, digest: str) -> dict[str, str]:
    """The training or the test rows as an input that MLflow shows. digest: of the images."""
    rows = competition.train_rows if which == "train" else competition.test_rows
    profile: dict[str, Any] = {"num_rows": len(rows), "num_classes": len(competition.classes)}
    return {
        "name": f"{competition.name} {which}",
        "digest": digest[:16],
        "source": json.dumps({"uri": str(competition.root), "tables": competition.tables_hash}),
        "profile": json.dumps(profile),
        "context": "training" if which == "train" else "prediction",
    }

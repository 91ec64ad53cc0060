"""The state of a fold that is being trained, on the disk: what a killed run goes on from.

Three files at most, of which none leaves `mlruns/NAME/`: the last epoch's whole state, the one before (should the last
be cut off by a full disk), and with `select: best` the best epoch's weights. Loaded without unpickling anything but
tensors and plain data.
"""

import os
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline import kept
from pipeline.average import Average
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.records import EpochRecord

BROKEN = (RuntimeError, EOFError, OSError, KeyError, ValueError, pickle.UnpicklingError)


class ResumeState:
    """identity: hashes of settings, folds and images; a state with others is refused. keeps_best: see `keep_best`."""

    def __init__(self, path: Path, identity: dict[str, str], keeps_best: bool = False):
        self.path, self.identity, self.keeps_best = path, identity, keeps_best
        self.previous = path.with_name(f"{path.name}.previous")
        self.best = path.with_name(f"{path.name}.best")

    def save(
        self,
        history: Sequence[EpochRecord],
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        average: Average | None,
    ) -> None:
        """The whole state after an epoch. A kill at any moment leaves this one, or the one before, whole."""
        state = {
            "identity": self.identity,
            "history": [asdict(record) for record in history],
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "average": average.module.state_dict() if average else {},
        }
        with kept.sealed(self.path) as temporary:
            torch.save(state, temporary)
            if self.path.is_file():
                os.replace(self.path, self.previous)

    def restore(
        self,
        device: torch.device,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        average: Average | None,
    ) -> list[EpochRecord]:
        """Loads a killed run's state in place and returns the epochs it had finished; none where there is no state."""
        state = self._read(device)
        if state is None:
            return []
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        if average:
            average.module.load_state_dict(state["average"])
        return [EpochRecord(**record) for record in state["history"]]

    def scores(self) -> list[float]:
        """Of the epochs that `restore` would go on from."""
        state = self._read(torch.device("cpu"))
        return [record["score"] for record in state["history"]] if state else []

    def _read(self, device: torch.device) -> dict[str, Any] | None:
        if self.keeps_best and not self._best_is_whole():
            return None  # without its best weights a state cannot be gone on with
        paths = [path for path in (self.path, self.previous) if path.is_file()]
        for path, other in zip(paths, [*paths[1:], None], strict=False):
            try:
                if kept.was_changed(path, self.path):
                    raise ValueError("changed since it was written")
                state = torch.load(path, map_location=device, weights_only=True)
            except BROKEN as error:  # cut off by a full disk or by hand
                instead = "the epoch before it is gone on from" if other else "this fold starts anew"
                warnings.warn(f"{shown(path)} is unreadable ({type(error).__name__}): {instead}", stacklevel=3)
                continue
            for name, value in self.identity.items():
                unknown = value if name == "train.threads" else None  # earlier versions did not note them
                if (found := state["identity"].get(name, unknown)) != value:
                    message = f"was trained with other {name} ({found}, not {value})"
                    valid = "valid: a state of the same settings, folds and images; move it away to start anew"
                    raise Mistakes([Mistake(shown(path), message, valid, "resume")])
            return state
        return None

    def _best_is_whole(self) -> bool:
        if not self.best.is_file():
            return False
        try:
            if kept.was_changed(self.best):
                raise ValueError("changed since it was written")
            torch.load(self.best, map_location="cpu", weights_only=True)
        except BROKEN as error:
            told = f"{shown(self.best)} is unreadable ({type(error).__name__}): this fold starts anew"
            warnings.warn(told, stacklevel=4)
            return False
        return True

    def keep_best(self, model: torch.nn.Module) -> None:
        """The best epoch's weights so far. Written before the state that says so: an epoch that is repeated after a
        kill writes the same bytes again."""
        with kept.sealed(self.best) as temporary:
            torch.save(model.state_dict(), temporary)

    def load_best(self, model: torch.nn.Module) -> None:
        model.load_state_dict(torch.load(self.best, weights_only=True))

    def remove(self) -> None:
        """When the fold's checkpoint is whole: until then the state is what remains of the fold."""
        for path in (self.path, self.previous, self.best):
            kept.remove(path)

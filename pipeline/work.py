"""One command on one experiment: its settings, its folder, and what several stages need, each made once.

It is what the stages have in common: are the inputs those of the last run, is everything in order, where is an
artifact, which MLflow run is being written. What a stage does stands in `stages`.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import receipts
from pipeline.competition.contract import Competition
from pipeline.competition.csv import missing_images
from pipeline.competition.sources import open_competition
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.config.settings import RUNS, Experiment, fingerprint
from pipeline.images.content import content_hashes, images_hash
from pipeline.receipts import Receipt

if TYPE_CHECKING:
    from pipeline.tracking import Tracker

_DATA = ("competition", "images")
ROOMS = {  # whose code a stage's result comes from
    "eda": (*_DATA, "eda", "report"),
    "folds": (*_DATA, "folds"),
    "train": (*_DATA, "metrics", "losses", "optim", "augment", "model", "predict", "train", "crossval"),
    "submit": (*_DATA, "augment", "model", "predict", "submit"),
    "score": (*_DATA, "metrics", "score"),
}
TRAINS = ("train", "submit", "score")  # verbs that may come to train a model


class Work:
    """target: the verb that the user asked for. force: make its result again, whatever the receipt says."""

    def __init__(self, settings: Experiment, name: str, target: str, force: bool = False, experiment: str = ""):
        self.settings = settings
        self.experiment = experiment  # the YAML file, as the user named it
        self.name = name
        self.target = target
        self.force = force
        self.folder = RUNS / name
        self._checked = False

    @cached_property
    def competition(self) -> Competition:
        return open_competition(self.settings.competition)

    @cached_property
    def image_hashes(self) -> tuple[str, str]:
        """(of the training images, of the test images)"""
        train, test = self.competition.train_rows, self.competition.test_rows
        paths = [row["path"] for row in [*train, *test]]
        hashes = content_hashes(paths, RUNS / "cache" / f"files-{self.name}.json")
        of_train = images_hash([row["image_id"] for row in train], hashes[: len(train)])
        return of_train, images_hash([row["image_id"] for row in test], hashes[len(train) :])

    @cached_property
    def eda_inputs(self) -> dict[str, Any]:
        train_hash, test_hash = self.image_hashes
        return {"tables": self.competition.tables_hash, "train images": train_hash, "test images": test_hash}

    @cached_property
    def images_seen(self) -> tuple[list[dict], list[dict], list[Mistake]]:
        """(facts of each training image, of each test image, the unreadable ones): every file decoded, once.

        Images that `eda` has gone through are known to be good as long as their content hash stays the same.
        """
        known = receipts.read(self.folder, "eda")
        if self.target != "eda" and known and known.fingerprint == fingerprint(self.eda_inputs):
            return [], [], []
        from pipeline.images.decode import describe

        n = len(self.competition.train_rows) + len(self.competition.test_rows)
        say("eda", f"reading {n:,} images of {self.settings.competition.root} ...")
        train, train_mistakes = describe(self.competition.train_rows)
        test, test_mistakes = describe(self.competition.test_rows)
        return train, test, train_mistakes + test_mistakes

    @cached_property
    def tracker(self) -> Tracker:
        from pipeline.tracking import Tracker

        return Tracker(self.settings.competition.name)

    def check(self) -> None:
        """Raises every mistake in tables, images, folds and names of models together, before the first stage works."""
        if self._checked:
            return
        from pipeline.folds import check_folds

        missing = missing_images(self.settings.competition, self.competition)
        places = {mistake.where for mistake in missing}
        unreadable = [mistake for mistake in self.images_seen[2] if mistake.where not in places]
        mistakes = [*self.competition.mistakes, *missing, *unreadable]
        if self.competition.train_rows:
            mistakes += check_folds(self.competition, self.settings.folds)
        if self.target in TRAINS:
            from pipeline.model import check_model

            mistakes += check_model(self.settings, len(self.competition.classes))
        if mistakes:
            raise Mistakes(mistakes)
        self._checked = True

    def done(self, verb: str, inputs: dict[str, Any], fetchable: bool = True) -> Receipt | None:
        """The receipt, if it still holds; else says why the stage runs."""
        receipt = receipts.read(self.folder, verb)
        if receipt is None:
            return None
        why = receipts.changes(receipt, inputs, self.folder, fetchable)
        if self.force and verb == self.target:
            why = why or ["made again, as asked"]
        if why:
            say(verb, "; ".join(why[:4]) + (f"; and {len(why) - 4} more" if len(why) > 4 else ""))
            return None
        now = receipts.code_hashes(ROOMS[verb])
        other = sorted(file for file in receipt.code.keys() | now.keys() if receipt.code.get(file) != now.get(file))
        note = f"; but {', '.join(other)} changed since: make {verb} FORCE=1 makes it again" if other else ""
        say(verb, f"up to date{note}")
        return receipt

    def finish(
        self,
        verb: str,
        inputs: dict[str, Any],
        files: list[Path],
        run_id: str,
        figures: dict[str, Any],
        started: float,
    ) -> Receipt:
        """Writes the receipt: from here on the stage is done."""
        receipt = Receipt(
            verb=verb,
            inputs=inputs,
            fingerprint=fingerprint(inputs),
            artifacts={path.name: receipts.artifact(path, self.folder) for path in files},
            figures=figures,
            code=receipts.code_hashes(ROOMS[verb]),
            code_version=receipts.code_version(),
            run_id="" if self.tracker.failure else run_id,
            made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            wall_s=round(time.perf_counter() - started, 1),
            settings=self.settings.flat(),
        )
        receipts.write(self.folder, receipt)
        return receipt

    def resolve(self, receipt: Receipt, name: str) -> Path:
        """The artifact's path, fetched from MLflow where it is not here; refuses another file than the stage made."""
        made = receipt.artifacts[name]
        path = self.folder / made["path"]
        remedy = f"valid: the file that `make {receipt.verb}` made; move yours away, or make {receipt.verb} FORCE=1"
        if not path.is_file() and receipt.run_id:
            from pipeline.tracking import fetch

            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                fetch(receipt.run_id, name, path.parent)
            except Exception as error:  # MLflow raises many kinds; each means that the file cannot be had
                found = f"gone from here, and MLflow does not give it ({type(error).__name__})"
                raise Mistakes([Mistake(shown(path), found, remedy, "artifacts")]) from error
            say(receipt.verb, f"{name} fetched from MLflow")
        if not path.is_file() or receipts.sha256(path) != made["sha256"]:
            found = f"is not the file that the {receipt.verb} stage recorded (hash {made['sha256'][:16]})"
            raise Mistakes([Mistake(shown(path), found, remedy, "foreign artifacts")])
        return path

    def tags(self, stage: str, inputs: dict[str, Any]) -> dict[str, str]:
        """What every run is tagged with. fingerprint: of what it depended on; resolved_settings: of all settings."""
        return {
            "stage": stage,
            "fingerprint": fingerprint(inputs),
            "resolved_settings": self.settings.fingerprint,
            "experiment_file": self.name,
            "code_version": receipts.code_version(),
        }

    @contextmanager
    def run(
        self, stage: str, name: str, inputs: dict[str, Any], tags: dict[str, str], resume: str = ""
    ) -> Generator[str]:
        """An MLflow run around a block: settings and fingerprints in; FINISHED, FAILED or KILLED out.

        resume: the run of an earlier command that was killed in this block.
        """
        run_id = self.tracker.start(name, {**self.tags(stage, inputs), **tags}, resume=resume)
        self.tracker.settings(run_id, self.settings.model_dump(mode="json"))
        try:
            yield run_id
        except BaseException as error:  # Ctrl-C and SIGTERM too; it goes on upwards
            for open_run in self.tracker.open_runs():  # this one and its children
                self.tracker.end(open_run, "KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
            raise
        self.tracker.end(run_id)


def say(verb: str, text: str) -> None:
    """A line for the terminal."""
    print(f"{verb:<7} {text}", flush=True)

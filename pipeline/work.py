"""One command on one experiment: its settings, its folder, and what several stages need, each made once.

It is what the stages have in common: are the inputs those of the last run, is everything in order, where is an
artifact, which MLflow run is being written. What a stage does stands in `stages`.
"""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline import receipts
from pipeline.competition.contract import WHERE, Competition, Row
from pipeline.competition.labels import check_class_weights, check_label_bounds, check_part_heads, part_values
from pipeline.competition.paths import missing_images
from pipeline.competition.sources import open_competition
from pipeline.config.losses import GivenWeights
from pipeline.config.mistakes import Mistake, Mistakes, Stopped, first_line, shown
from pipeline.config.settings import ROOT, RUNS, Experiment, fingerprint
from pipeline.images.content import MISSING, content_hashes, images_hash
from pipeline.receipts import Receipt

if TYPE_CHECKING:
    from pipeline.config.data import Preprocessing
    from pipeline.images.store import Side, Store
    from pipeline.task import Task
    from pipeline.tracking.runs import Tracker

VERB_OF = {"eda": "eda", "folds": "folds", "cv": "train", "fold": "train", "submission": "submit", "tune": "tune",
           "trial": "tune", "trial-fold": "tune"}  # of a run's stage  # fmt: skip
TRAINS = ("train", "submit", "score", "overfit", "export", "tune", "pseudo")  # verbs that may come to train a model


class Work:
    """target: the verb that the user asked for. force: make its result again, whatever the receipt says."""

    def __init__(
        self, settings: Experiment, name: str, target: str, force: bool = False, experiment: str = "",
        overrides: Sequence[str] = (), runs: Sequence[str] = (),
    ):  # fmt: skip
        self.settings = settings
        self.experiment = experiment  # the YAML file, as the user named it
        self.overrides = tuple(overrides)  # settings of this call
        self.runs = tuple(runs)  # of a submission: other cross-validations than the experiment's own
        self.name = name
        self.target = target
        self.force = force
        self.folder = RUNS / name
        self._checked, self._place = False, -1
        self._whole: dict[Side, Store] = {}  # stores that hold every image, each pixel as it was written

    @cached_property
    def competition(self) -> Competition:
        return open_competition(self.settings.competition)

    @cached_property
    def absent(self) -> dict[int, Mistake]:
        """Rows without an image of the competition's own."""
        return missing_images(self.competition)

    @cached_property
    def contents(self) -> tuple[list[str], list[str]]:
        """Content hash of the image of each training row, and of each test row."""
        train, test = self.competition.train_rows, self.competition.test_rows
        # what is not there, or not the competition's own, is not opened
        paths = ["" if i in self.absent else row["path"] for i, row in enumerate([*train, *test])]
        hashes = content_hashes(paths, RUNS / "cache" / f"files-{self.settings.competition.name}.json")
        return hashes[: len(train)], hashes[len(train) :]

    @cached_property
    def image_hashes(self) -> tuple[str, str]:
        """(of the training images, of the test images)"""
        rows = (self.competition.train_rows, self.competition.test_rows)
        train, test = (
            images_hash([row["image_id"] for row in members], hashes)
            for members, hashes in zip(rows, self.contents, strict=True)
        )
        return train, test

    @property
    def weights_hash(self) -> str:
        """Of the file of pretrained weights; `none` where they come from elsewhere."""
        path = ROOT / self.settings.model.weights
        return receipts.sha256(path)[:16] if path.is_file() else "none"

    @property
    def eda_inputs(self) -> dict[str, Any]:
        train_hash, test_hash = self.image_hashes
        rows = ([row["image_id"], *(f"{k}={v}" for k, v in row.items() if k not in ("path", WHERE))]
                for row in self.competition.train_rows)  # fmt: skip
        data = {"tables": self.competition.tables_hash, "train images": train_hash, "test images": test_hash}
        data["columns"] = fingerprint(sorted(rows))
        return {**self.settings.flat("eda"), **data}

    @cached_property
    def preprocessing(self) -> Preprocessing:
        from pipeline.model import preprocessing

        return preprocessing(self.settings.images, self.settings.model)

    @cached_property
    def task(self) -> Task:
        """What the model is to answer, from the competition and the settings."""
        from pipeline.task import Task

        classes, kind = self.competition.classes, self.settings.competition.target
        if kind == "regression":
            return Task(kind, "number", classes)
        if kind == "multilabel":
            return Task(kind, "sigmoid", classes)
        if self.settings.train.loss.name == "corn":
            return Task(kind, "corn", classes)
        if self.settings.model.heads == "parts":
            return Task(kind, "parts", classes, parts=part_values(self.settings.competition, classes))
        return Task(kind, "one_vs_all" if self.settings.train.loss.name == "bce" else "softmax", classes)

    @cached_property
    def store(self) -> Store:
        """The decoded images, at a size that serves the model."""
        from pipeline.images.store import Store, side_for

        side = side_for(self.settings.images.store, self.preprocessing, self.settings.augment.mean_crop_area)
        return Store(RUNS / "cache" / f"images-{side}", side)

    def stored(self, side: Side) -> Store:
        """The decoded images at the size that another run was trained from, every image of them."""
        from pipeline.images.store import Store

        if side not in self._whole:
            store = Store(RUNS / "cache" / f"images-{side}", side)
            if mistakes := self._fill(store):
                raise Mistakes(mistakes)
        return self._whole[side]

    @property
    def _files(self) -> tuple[list[Row], list[str]]:
        """All rows, those of the training first, and the content of each one's image."""
        rows = [*self.competition.train_rows, *self.competition.test_rows]
        return rows, [*self.contents[0], *self.contents[1]]

    def _fill(self, store: Store) -> list[Mistake]:
        """Decodes every image that was not decoded yet; the files that are no whole images."""
        from pipeline.images.store import unreadable

        rows, hashes = self._files
        mistakes = [
            unreadable(row, PermissionError("it cannot be opened"))
            for i, (row, content) in enumerate(zip(rows, hashes, strict=True))
            if content == MISSING and i not in self.absent
        ]
        store.drop_changed(hashes)
        self._whole[store.side] = store
        if not (n := len(store.missing(hashes))):
            return mistakes
        from pipeline.images.store import estimate
        from pipeline.progress import ImageProgress

        size = estimate([rows[i]["path"] for i in store.missing(hashes)], store.side)
        say("images", f"{n:,} to decode, about {size / 1e6:,.0f} MB in {shown(store.folder)} ...")
        with ImageProgress(n) as progress:
            mistakes += store.build(rows, hashes, progress)
        return mistakes

    @cached_property
    def tracker(self) -> Tracker:
        from pipeline.tracking.runs import Tracker

        return Tracker(self.settings.competition.name)

    def check(self) -> None:
        """Raises every mistake in tables, images, folds and names of models together, before the first stage works."""
        if self._checked:
            return
        from pipeline.folds.split import check_folds
        from pipeline.images.load import too_narrow
        from pipeline.images.store import check_side

        settings = self.settings
        mistakes = [*self.competition.mistakes, *self.absent.values()]
        if settings.images.store not in ("auto", "off"):
            mistakes += check_side(settings.images.store, self.preprocessing)
        mistakes += check_label_bounds(settings.competition, settings.train.label_bounds)
        if isinstance(settings.train.class_weights, GivenWeights):
            mistakes += check_class_weights(settings.train.class_weights.weights, self.competition.classes)
        mistakes += check_folds(self.competition, settings.folds)
        by_part = settings.model.heads == "parts"
        if by_part:
            mistakes += check_part_heads(settings.competition, self.competition.classes)
        if self.target in TRAINS and not (by_part and mistakes):  # without its parts there is no model to check
            from pipeline.model_checks import check_model

            mistakes += check_model(settings, max(self.task.n_logits, 1))
        mistakes += self._fill(self.store) + too_narrow(*self._files, self.store, self.preprocessing)
        if mistakes:
            raise Mistakes(mistakes)
        self.folder.mkdir(parents=True, exist_ok=True)
        # held open, or the number of a folder that was removed could be given to the next one
        self._place, self._checked = os.open(self.folder, os.O_RDONLY), True

    def done(self, verb: str, inputs: dict[str, Any], fetchable: bool = True) -> Receipt | None:
        """The receipt, if it still holds; else says why the stage runs."""
        if (receipt := receipts.read(self.folder, verb)) is None:
            return None
        force = self.force and verb == self.target
        if fetchable and not force and receipt.fingerprint == fingerprint(inputs):
            for name in receipts.changed(receipt, self.folder):
                self.resolve(receipt, name)  # refuses it by name: it took long to make, or a hand changed it
        why = receipts.changes(receipt, inputs, self.folder, fetchable and bool(self.in_mlflow(receipt)))
        if force:
            why = why or ["made again, as asked"]
        if why:
            say(verb, "; ".join(why[:4]) + (f"; and {len(why) - 4} more" if len(why) > 4 else ""))
            return None
        now = receipts.code_hashes(receipts.ROOMS[verb])
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
        """Writes the receipt: from here on the stage is done. Raises `Stopped` where the folder is another by now."""
        is_there = self.folder.is_dir()
        if self._checked and not (is_there and os.path.samestat(os.fstat(self._place), self.folder.stat())):
            told = f"{shown(self.folder)} was removed while the command worked; the same command makes it again"
            raise Stopped(told)
        receipt = Receipt(
            verb=verb,
            inputs=inputs,
            fingerprint=fingerprint(inputs),
            artifacts={path.name: receipts.artifact(path, self.folder) for path in files},
            figures=figures,
            code=receipts.code_hashes(receipts.ROOMS[verb]),
            code_version=receipts.code_version(),
            run_id=run_id,
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
        if not path.is_file() and self.in_mlflow(receipt):
            from pipeline.tracking.runs import fetch

            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                fetch(receipt.run_id, name, path.parent)
            except Exception as error:  # MLflow raises many kinds; each means that the file cannot be had
                found = f"gone from here, and MLflow does not give it ({first_line(error)})"
                raise Mistakes([Mistake(shown(path), found, remedy, "artifacts")]) from error
            say(receipt.verb, f"{name} fetched from MLflow")
        if not path.is_file() or receipts.sha256(path) != made["sha256"]:
            found = f"is not the file that the {receipt.verb} stage recorded (hash {made['sha256'][:16]})"
            raise Mistakes([Mistake(shown(path), found, remedy, "foreign artifacts")])
        return path

    def in_mlflow(self, receipt: Receipt) -> str:
        """MLflow's id of the run behind a receipt; empty while what it holds is still kept here."""
        from pipeline.tracking.outbox import real_id

        return real_id(receipt.run_id, RUNS / "outbox")

    def tags(self, stage: str, inputs: dict[str, Any]) -> dict[str, str]:
        """What every run is tagged with. fingerprint: of what it depended on; resolved_settings: of all settings."""
        return {
            "stage": stage,
            "fingerprint": fingerprint(inputs),
            "resolved_settings": self.settings.fingerprint,
            "experiment_file": self.name,
            "code_version": receipts.code_version(),
            "mlflow.user": receipts.user(),
            "mlflow.source.name": f"make {VERB_OF[stage]} EXP={self.experiment or self.name}",
            "mlflow.source.type": "LOCAL",
        }

    @contextmanager
    def run(
        self, stage: str, name: str, inputs: dict[str, Any], tags: dict[str, str], resume: str = ""
    ) -> Generator[str]:
        """An MLflow run around a block: settings and fingerprints in; FINISHED, FAILED or KILLED out.

        resume: the run of an earlier command that was killed in this block.
        """
        run_id = self.tracker.start(name, {**self.tags(stage, inputs), **tags}, resume=resume)
        self.tracker.text(run_id, yaml.safe_dump(self.settings.model_dump(mode="json")), "settings.yaml")
        if changes := receipts.uncommitted():
            self.tracker.text(run_id, changes, "uncommitted.diff")
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

"""The stages before any model: `eda` looks at what the organisers gave, `folds` splits it once and for all."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline import receipts
from pipeline.atomic import atomic
from pipeline.competition.contract import stratified_by
from pipeline.config.mistakes import Mistakes, shown
from pipeline.config.settings import ROOT, fingerprint
from pipeline.receipts import Receipt
from pipeline.stages.describe import dataset, page
from pipeline.work import Work, say

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.config.data import Folds


def eda(work: Work) -> Receipt:
    """Reads the tables and decodes every image. Leaves `findings.json`, `eda.html`, pictures and `duplicates.json`."""
    competition = work.competition
    if competition.mistakes:
        work.check()
    inputs = work.eda_inputs
    if done := work.done("eda", inputs, fetchable=False):
        return done
    work.check()
    started = time.perf_counter()
    from pipeline.eda.look import look
    from pipeline.images.load import load_thumbnails
    from pipeline.progress import Steps
    from pipeline.report.eda_page import findings_lines, thumbnails_wanted, write_eda

    with Steps("eda") as step:
        train_facts, test_facts = (work.store.facts(hashes) for hashes in work.contents)
        contents = [*work.contents[0], *work.contents[1]]
        seen = look(competition, train_facts, test_facts, contents, work.settings.eda, work.preprocessing.px, step)
        findings: dict[str, Any] = seen.findings | {"made": {"code_version": receipts.code_version()}}
        step("drawing the page")
        rows = [*competition.train_rows, *competition.test_rows]
        n = len(competition.train_rows)
        index = {f"{'train' if i < n else 'test'}:{row['image_id']}": i for i, row in enumerate(rows)}
        wanted = thumbnails_wanted(findings)
        chosen = [index[key] for key in wanted]
        pictures = load_thumbnails([rows[i] for i in chosen], 112, work.store, [contents[i] for i in chosen])
        folder = work.folder / "eda"
        folder.mkdir(parents=True, exist_ok=True)
        receipts.remove(work.folder, "eda")  # a kill from here on leaves new files, which the old receipt is not of
        files = write_eda(findings, dict(zip(wanted, pictures, strict=True)), folder)
        for name, data in (("findings.json", findings), ("duplicates.json", seen.duplicates)):
            with atomic(folder / name) as temporary:
                temporary.write_text(json.dumps(data, indent=1))
            files.append(folder / name)
    with work.run("eda", "eda", inputs, {}) as run_id:
        for path in files:
            work.tracker.artifact(run_id, path)
        shown_facts = ("n_train", "n_test", "n_classes", "n_groups", "imbalance_ratio")
        counted = {key: findings[key] for key in shown_facts} | findings["duplicates"]
        work.tracker.metrics(run_id, {key: float(value) for key, value in counted.items()})
        datasets = [dataset(competition, "train", work.image_hashes[0])]
        datasets += [dataset(competition, "test", work.image_hashes[1])] if competition.test_rows else []
        work.tracker.inputs(run_id, datasets)
        work.tracker.describe(run_id, page(work, "A first look at the data.", [f"- {line}" for line in findings_lines(
            findings)] + ["The page is the artifact `eda.html`."], "eda", {}))  # fmt: skip
    n_of_class = [entry["n"] for entry in findings["classes"]]
    classes = f"{findings['n_classes']} classes of {min(n_of_class):,} to {max(n_of_class):,}"
    counted = f"{findings['n_train']:,} training and {findings['n_test']:,} test images, all readable"
    say("eda", f"{counted}; {classes}")
    for line in findings_lines(findings):
        say("eda", line)
    if competition.test_rows and competition.cells:
        say("eda", f"in the submission {competition.cells}")
    say("eda", f"page {shown(folder / 'eda.html')}")
    figures = {key: findings[key] for key in (*shown_facts, "duplicates")}
    return work.finish("eda", inputs, files, run_id, figures, started)


def folds(work: Work) -> Receipt:
    """Splits the training rows. Leaves `folds.csv`, whose hash everything trained on it carries, and its audit."""
    seen = eda(work)
    competition, settings = work.competition, work.settings.folds
    known = json.loads(work.resolve(seen, "duplicates.json").read_text())
    duplicates = _kept_together(known, settings)
    own = ROOT / settings.file if settings.file != "none" else None
    inputs = {
        **work.settings.flat("folds"),
        "tables": competition.tables_hash,
        "duplicates": fingerprint(duplicates),
        "stratified by": fingerprint(_strata(work)),
        "own table": receipts.sha256(own)[:16] if own and own.is_file() else "none",
    }
    if done := work.done("folds", inputs):
        work.resolve(done, "folds.csv")  # a table that was edited since is refused here, by name
        return done
    work.check()
    started = time.perf_counter()
    from pipeline.folds.audit import audit_folds, audit_lines
    from pipeline.folds.own import read_own_folds
    from pipeline.folds.split import check_folds, make_folds, write_folds

    if mistakes := check_folds(competition, settings, duplicates):  # again, now that duplicates count as one
        raise Mistakes(mistakes)
    table = read_own_folds(own, competition, duplicates) if own else make_folds(competition, settings, duplicates)
    audit = audit_folds(table, competition, duplicates)
    warnings = _warnings(work, seen, known, table)
    path, audit_path = work.folder / "folds.csv", work.folder / "folds-audit.json"
    receipts.remove(work.folder, "folds")
    hash_ = write_folds(table, path)
    with atomic(audit_path) as temporary:
        temporary.write_text(json.dumps(asdict(audit), indent=1))
    with work.run("folds", f"folds · {hash_[:8]}", inputs, {"folds": hash_}) as run_id:
        work.tracker.params(run_id, inputs)
        work.tracker.metrics(run_id, audit.metrics())
        told = [f"{_scheme(work)}; hash `{hash_}`", *(f"- warning: {line}" for line in warnings)]
        work.tracker.describe(run_id, page(work, "The folds, fixed once for every model.", told, "folds",
                                           {"first look at the data": seen.run_id}))  # fmt: skip
        for file in (path, audit_path):
            work.tracker.artifact(run_id, file)
    say("folds", f"{_scheme(work)}; hash {hash_}")
    for line in warnings:
        say("folds", f"warning: {line}")
    for line in audit_lines(audit, competition.classes):
        say("folds", line)
    figures = {**audit.metrics(), "n_models": audit.n_models, "hash": hash_}
    return work.finish("folds", inputs, [path, audit_path], run_id, figures, started)


def other_folds(work: Work, seed: int) -> pd.DataFrame:
    """Another split by the same rules, audited: whole groups, sets of duplicates on one side."""
    from pipeline.folds.audit import audit_folds
    from pipeline.folds.split import make_folds

    known = json.loads(work.resolve(eda(work), "duplicates.json").read_text())
    duplicates = _kept_together(known, work.settings.folds)
    table = make_folds(work.competition, work.settings.folds.model_copy(update={"seed": seed}), duplicates)
    audit_folds(table, work.competition, duplicates)  # raises where it proves nothing
    return table


def _kept_together(known: dict[str, list], settings: Folds) -> list[list[str]]:
    """Sets of duplicates that the folds do not tear, by `folds.duplicates`."""
    sets = {"together": _all_sets(known), "exact": known["exact"], "off": []}[settings.duplicates]
    return sorted(sorted(members) for members in sets)


def _all_sets(known: dict[str, list]) -> list[list[str]]:
    """Each training row in one set at most: a set of copies has all rows of an exact set, or none of them."""
    copied = {image_id for members in known["copies"] for image_id in members}
    return [*known["copies"], *(members for members in known["exact"] if members[0] not in copied)]


def _warnings(work: Work, seen: Receipt, known: dict[str, list], table: pd.DataFrame) -> list[str]:
    """What the first look suspects and these folds do not heal: told here again, before anything is trained."""
    findings = json.loads(work.resolve(seen, "findings.json").read_text())
    lines = [
        f"a forgotten group? {group['what']}: images of one value look alike in {group['auc']:.0%} of cases, where 50% "
        f"is chance; declare it by {group['setting']}"
        for group in findings["possible_groups"]
    ]
    fold_of = dict(zip(table["image_id"], table["fold"], strict=True))
    torn = sum(len({fold_of[i] for i in members}) > 1 for members in _all_sets(known))
    if torn:
        lines.append(f"{torn:,} sets of duplicates are on both sides; folds.duplicates: together keeps them on one")
    return lines


def _strata(work: Work) -> list[list[str]]:
    """What rows say under the names that folds are stratified by, beside the class."""
    names = work.settings.folds.stratify
    if names in ("off", ("class",)):
        return []
    rows = work.competition.train_rows
    return sorted([row["image_id"], *(stratified_by(row, name) for name in names)] for row in rows)


def _scheme(work: Work) -> str:
    """The split in a few words."""
    settings = work.settings.folds
    if settings.file != "none":
        return f"your own table, {settings.file}"
    by = "not stratified" if settings.stratify == "off" else f"stratified by {', '.join(settings.stratify)}"
    if settings.holdout != "off":
        return f"a hold-out of {settings.holdout:.0%}, {by}"
    times = f", {settings.repeats} times" if settings.repeats > 1 else ""
    return f"{settings.k} folds{times}, {by}"

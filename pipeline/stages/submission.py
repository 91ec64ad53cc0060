"""The stages after training: `submit` predicts and writes the file, `score` compares it with answers that are known."""

from __future__ import annotations

import json
import time
from itertools import product

from pipeline import receipts
from pipeline.atomic import atomic
from pipeline.competition.paths import root_of
from pipeline.config.mistakes import Mistake, Mistakes, shown
from pipeline.config.settings import fingerprint
from pipeline.receipts import Receipt
from pipeline.stages.describe import dataset, page
from pipeline.stages.training import identity_of, train
from pipeline.work import Work, say


def submit(work: Work) -> Receipt:
    """Predicts the test images with every fold's model. Leaves `submission.csv` and `submission.json`."""
    competition = work.competition
    if not competition.test_rows and not competition.mistakes:
        found, valid = (
            "there is no test set, so nothing can be submitted",
            "valid: make train, or a competition with one",
        )
        raise Mistakes([Mistake("competition", found, valid, "submission")])
    trained = train(work)
    models = [name for name in trained.artifacts if name.startswith("fold-") and name.endswith(".safetensors")]
    inputs = {
        "train": trained.fingerprint,
        "models": fingerprint([trained.artifacts[name]["sha256"] for name in models]),
        "test images": work.image_hashes[1],
        "sample submission": receipts.sha256(competition.sample_csv)[:16] if competition.sample_csv else "none",
    }
    if done := work.done("submit", inputs, fetchable=False):
        return done
    work.check()
    started = time.perf_counter()
    from pipeline import submit as room
    from pipeline.crossval import refuse_others
    from pipeline.model import checkpoint_info, pick_device

    checkpoints = [work.resolve(trained, name) for name in models]
    identity = identity_of(trained.fingerprint, trained.inputs)
    seeds = work.settings.train.seeds
    folds = range(len(checkpoints) // len(seeds))
    for (seed, fold), checkpoint in zip(product(seeds, folds), checkpoints, strict=True):  # as they were trained
        refuse_others(checkpoint, checkpoint_info(checkpoint), identity, fold, seed)
    device = pick_device(work.settings.train.device)
    probs = room.predict_test(checkpoints, competition, device, work.store, work.contents[1])
    path, record_path = work.folder / "submission.csv", work.folder / "submission.json"
    before = room.read_submission(path)
    submission = room.write_submission(competition, probs, path)
    n_changed = room.n_changed(before, submission)
    record = {
        "cv_run": trained.run_id,
        "checkpoints": {
            name: {"sha256": trained.artifacts[name]["sha256"], "weight": 1 / len(models)} for name in models
        },
        "tta": "none",
        "code_version": {"trained": trained.code_version, "predicted": receipts.code_version()},
        "metric": competition.metric,
        "out_of_fold": trained.figures,
        "n_rows": len(submission),
        "n_rows_changed_since_previous": n_changed,
        "sha256": receipts.sha256(path),
    }
    with atomic(record_path) as temporary:
        temporary.write_text(json.dumps(record, indent=1))
    oof_score = trained.figures["score"]
    tags = {"cv_run": trained.run_id, **identity}
    with work.run("submission", f"submission · {oof_score:.4f}", inputs, tags) as run_id:
        work.tracker.metrics(run_id, {f"oof_{competition.metric}": oof_score})
        work.tracker.inputs(run_id, [dataset(competition, "test", work.image_hashes[1])])
        interval = f"95 % interval {trained.figures['low']:.4f} to {trained.figures['high']:.4f}"
        told = [f"{len(submission):,} rows, each the mean of {len(models)} models",
                f"{competition.metric} {oof_score:.4f} out of fold, {interval}"]  # fmt: skip
        work.tracker.describe(run_id, page(work, "A submission.", told, "submit",
                                           {"cross-validation": trained.run_id}))  # fmt: skip
        for file in (path, record_path):
            work.tracker.artifact(run_id, file)
    since = "" if n_changed == "no previous" else f"; {n_changed:,} rows differ from the submission before"
    say("submit", f"{len(submission):,} rows, each the mean of {len(models)} models{since}")
    return work.finish("submit", inputs, [path, record_path], run_id, {"n_rows": len(submission)}, started)


def score(work: Work) -> Receipt:
    """Compares the submission with the organisers' answers and writes the score to the submission's run."""
    settings = work.settings.competition
    answers = root_of(settings) / settings.answers_csv
    if not work.competition.mistakes:  # the first access makes the embedded competition; else submit tells them
        from pipeline.score import check_answers

        check_answers(answers)
    submitted = submit(work)
    inputs = {
        "submission": submitted.artifacts["submission.csv"]["sha256"][:16],
        "answers": receipts.sha256(answers)[:16],
        "metric": settings.metric,
    }
    done = work.done("score", inputs)
    if not done:
        started = time.perf_counter()
        from pipeline.score import score_submission

        path = work.resolve(submitted, "submission.csv")
        value, n_rows = score_submission(path, answers, work.competition)
        work.tracker.metrics(submitted.run_id, {f"test_{settings.metric}": value})
        done = work.finish("score", inputs, [], submitted.run_id, {"score": value, "n_rows": n_rows}, started)
    say("score", f"test {settings.metric} {done.figures['score']:.4f} on {done.figures['n_rows']:,} images")
    return done


def summary(work: Work) -> str:
    """What the user wants to know in the end, from the receipts alone."""
    trained = receipts.read(work.folder, "train")
    assert trained is not None, "submit comes after train"
    oof = trained.figures
    experiment = "" if work.experiment == "experiments/digits.yaml" else f" EXP={work.experiment}"
    rows = {
        f"cross-validated {work.competition.metric}": (
            f"{oof['score']:.4f}  (95 % interval {oof['low']:.4f} to {oof['high']:.4f})"
        ),
        "submission": shown(work.folder / "submission.csv"),
        "browse all runs in MLflow": f"make ui{experiment}",
    }
    return "\n" + "\n".join(f"{label:<28} {value}" for label, value in rows.items())

"""The verbs: `python -m pipeline VERB EXPERIMENT [key=value ...]`. Make calls these and adds nothing of its own."""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config.settings import Experiment

VERBS = {
    "eda": "look at the competition's tables and images",
    "folds": "split the training rows, once and for all",
    "overfit": "learn one batch by heart, to see that it can be learnt",
    "smoke": "run everything on a few images, in about a minute",
    "train": "train a model a fold, score all rows out of fold",
    "tune": "search for better settings, and choose honestly",
    "submit": "predict the test images and write the submission",
    "pseudo": "train again with the test rows that each fold is sure of",
    "score": "score the submission, or write down what the leaderboard said",
    "board": "show all submissions beside each other, and which to select",
    "verify": "make a submission's file again and compare it, byte by byte",
    "reproduce": "train a submission's models anew and compare its file",
    "kaggle": "upload a submission to Kaggle, and fetch the scores",
    "runs": "list the runs",
    "compare": "say whether one run is better than another, or lucky",
    "sync": "send to MLflow what it could not take before",
    "promote": "make a run's model the champion, on request",
    "serve": "serve the champion, or a run's model, on 127.0.0.1",
    "export": "write every fold's model as ONNX, compared with torch",
    "ui": "serve MLflow on 127.0.0.1 and print the link to the runs",
    "dashboard": "serve Optuna's pages of the searches on 127.0.0.1",
}
PORTS = {"ui": 5000, "serve": 5001, "dashboard": 8080}  # where nothing else is said


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="verbs:\n" + "\n".join(f"  {verb:<8} {text}" for verb, text in VERBS.items()),
    )
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="one of " + ", ".join(VERBS))
    parser.add_argument(
        "experiment", metavar="EXPERIMENT", help="an experiment's YAML file, e.g. experiments/digits.yaml"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings for this call, e.g. train.lr=1e-3")
    parser.add_argument("--force", action="store_true", help="make the verb's result again, whatever its receipt says")
    fix = "write a table that leaves out training rows which cannot be used; edits no file of yours"
    parser.add_argument("--fix", action="store_true", help=fix)
    parser.add_argument(
        "--runs", nargs="*", default=[], metavar="RUN", help="of `compare` and `submit`: ids or beginnings"
    )
    parser.add_argument("--run", default="", metavar="RUN", help="of `promote` and `serve`: an id or its beginning")
    parser.add_argument("--submission", default="", help="of `score`, `verify`, ...: its run's id, or its file's path")
    parser.add_argument("--public", type=float, help="of `score`: what the public leaderboard said")
    parser.add_argument("--private", type=float, help="of `score`: what the private leaderboard said")
    parser.add_argument("--port", type=int, help="of `ui` (default 5000), `serve` (5001), `dashboard` (8080)")
    args = parser.parse_intermixed_args(argv)  # --force and --port may stand anywhere

    port = PORTS.get(args.verb, 5000) if args.port is None else args.port
    if not 0 < port < 65536:
        parser.error(f"--port {port}: valid are 1 to 65535")

    from pipeline.config.load import load
    from pipeline.config.mistakes import Mistakes, Stopped
    from pipeline.config.settings import ROOT
    from pipeline.kept import at_work

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal shows other letters by their numbers
            stream.reconfigure(errors="backslashreplace")
    for number in (signal.SIGTERM, signal.SIGHUP):  # as exceptions, so that runs and servers are closed on the way out
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it: it stays ignored
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    settings, name = None, ""
    try:
        settings, name = load(args.experiment, args.overrides)
        if args.verb == "ui":
            from pipeline.ui import serve

            return serve(settings.competition.name, port)
        if args.verb == "dashboard":
            from pipeline.dashboard import serve

            return serve(settings.tune.storage, name, port)
        if args.verb == "serve":
            from pipeline.stages import models

            return models.serve(settings, args.run, port)
        told = args.public is not None or args.private is not None
        if args.verb == "score" and args.submission and not told:
            parser.error("SUBMISSION goes with PUBLIC or PRIVATE; against known answers the last submission is scored")
        with at_work(ROOT):
            if args.verb in ("promote", "board", "verify", "reproduce", "kaggle") or (args.verb == "score" and told):
                return _of_submission(args, settings, name)
            if args.verb in ("runs", "compare", "sync"):
                from pipeline.stages import record

                return record.VERBS[args.verb](settings, args.runs)
            return _run_stage(args, settings, name)
    except Mistakes as error:
        print(error, file=sys.stderr)
        if args.fix and settings:
            from pipeline.fixes import write_fixes

            print(write_fixes(error.mistakes, settings.competition, name), file=sys.stderr)
        return 2
    except Stopped as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the output has gone (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last finished epoch", file=sys.stderr)
        return 130
    except Exception as error:
        from pipeline.refused import refused

        if not (line := refused(error)):
            raise
        with suppress(OSError):  # the terminal may be a file on the same full disk
            print(f"stopped: {line}", file=sys.stderr)
        return 1


def _of_submission(args: argparse.Namespace, settings: Experiment, name: str) -> int:
    from pipeline.stages import board, kaggle, models, reproduce, verify
    from pipeline.work import Work

    work = Work(settings, name, args.verb, args.force, args.experiment, args.overrides)
    if args.verb == "score":
        return board.write_down(work, args.submission, args.public, args.private)
    if args.verb == "board":
        return board.board(work)
    if args.verb == "promote":
        return models.promote(work, args.run)
    verbs = {"verify": verify.verify, "reproduce": reproduce.reproduce, "kaggle": kaggle.kaggle}
    return verbs[args.verb](work, args.submission)


def _run_stage(args: argparse.Namespace, settings: Experiment, name: str) -> int:
    from pipeline.config.settings import RUNS
    from pipeline.stages import checks, data, models, pseudo, submission, training, tuning
    from pipeline.work import Work

    RUNS.mkdir(exist_ok=True)
    with (RUNS / f".{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # let go by the system, however this process ends
        except OSError:
            print(f"another command is at work on {name}: wait for it, or end it", file=sys.stderr)
            return 2
        if args.verb == "smoke":
            checks.smoke(settings, name, args.experiment)
            return 0
        work = Work(settings, name, args.verb, args.force, args.experiment, args.overrides, args.runs)
        if args.verb == "overfit":
            checks.overfit(work)
            return 0
        stages = {"eda": data.eda, "folds": data.folds, "train": training.train, "tune": tuning.tune}
        after = {"submit": submission.submit, "score": submission.score, "export": models.export,
                 "pseudo": pseudo.pseudo}  # fmt: skip
        (stages | after)[args.verb](work)
    if args.verb == "submit":
        print(submission.summary(work))
    return 0


if __name__ == "__main__":
    sys.exit(main())

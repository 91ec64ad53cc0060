"""Strategies of tuning against each other, on recorded curves of real trainings.

    .venv/bin/python benchmarks/tune.py record FOLDER --jobs 2     # once: trains the grid on every fold
    .venv/bin/python benchmarks/tune.py replay                     # strategies on that table, 200 repeats each

FOLDER holds facemask3/. Recorded: a full grid of 72 settings (loss, learning rate, schedule, accumulation) x 5 folds x
2 seeds x 8 epochs of a small network at 32 px, macro F1 of each fold after each epoch and of all out-of-fold rows in
the end. It takes two hours of one core and goes on where it was stopped.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
TABLE = HERE / "results" / "tune-table.json"
N_FOLDS, EPOCHS, SEEDS = 5, 8, (0, 1)
LEVELS = {  # of each factor; the table has every combination
    "loss": ["cross_entropy", "focal", "logit_adjustment"],
    "lr": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1],
    "schedule": ["cosine", "step"],
    "accumulation": [1, 4],
}
LOSSES = {
    "cross_entropy": {"name": "cross_entropy", "label_smoothing": 0.1},
    "focal": {"name": "focal", "gamma": 2.0},
    "logit_adjustment": {"name": "logit_adjustment", "tau": 1.0},
}
SCHEDULES = {
    "cosine": {"name": "cosine", "warmup_epochs": 0.5},
    "step": {"name": "step", "step_size": 3, "gamma": 0.3, "warmup_epochs": 0.5},
}


def grid() -> list[dict]:
    return [dict(zip(LEVELS, values, strict=True)) for values in itertools.product(*LEVELS.values())]


def experiment(setting: dict, seed: int) -> list[str]:
    """Overrides of experiments/facemask3.yaml."""
    return [
        "images.px=32", "images.mean=[0.5, 0.5, 0.5]", "images.std=[0.5, 0.5, 0.5]",
        "model={name: test_resnet, pretrained: false, drop_rate: 0.0}",
        f"train.epochs={EPOCHS}", f"train.seeds=[{seed}]",
        f"train.lr={setting['lr']}", f"train.accumulation={setting['accumulation']}",
        f"train.loss={json.dumps(LOSSES[setting['loss']])}",
        f"train.schedule={json.dumps(SCHEDULES[setting['schedule']])}",
    ]  # fmt: skip


def record_one(job: tuple[int, int, str]) -> str:
    """One setting and seed on all folds, as a line of JSON. A training that diverges ends where it did."""
    index, seed, table_path = job
    import numpy as np
    import pandas as pd
    import torch

    from pipeline.config.load import load
    from pipeline.metrics import score
    from pipeline.precision import Precision
    from pipeline.records import FoldRun
    from pipeline.resume import ResumeState
    from pipeline.stages.training import training_data
    from pipeline.train import TrainingDiverged, train_fold
    from pipeline.work import Work

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)

    class NoState(ResumeState):
        def save(self, *_) -> None:
            pass

    settings, name = load("experiments/facemask3.yaml", experiment(grid()[index], seed))
    if "data" not in record_one.__dict__:
        record_one.data = training_data(Work(settings, name, "train"))
    data = record_one.data
    folds = pd.read_csv(table_path, dtype={"image_id": str}).set_index("image_id")["fold"][data.image_ids].to_numpy()
    curves, outputs = [], np.full((len(folds), data.task.n_outputs), 1 / data.task.n_outputs)
    for fold in range(N_FOLDS):
        train_rows, valid_rows = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        curve: list[float] = []
        with tempfile.TemporaryDirectory() as scratch:
            try:
                trained = train_fold(data, train_rows, valid_rows, FoldRun(fold, N_FOLDS, seed), settings, Precision(),
                                     torch.device("cpu"), NoState(Path(scratch) / "state", {}),
                                     lambda record, curve=curve: curve.append(round(record.score, 5)))  # fmt: skip
                outputs[valid_rows] = trained.outputs
            except TrainingDiverged:
                pass
        curves.append(curve)
    oof = score("macro_f1", data.targets.numpy(), outputs, "class")
    return json.dumps({"setting": index, "seed": seed, "curves": curves, "oof": round(oof, 5)})


def record(folder: Path, jobs: int, scratch: Path) -> None:
    """Appends to `scratch` what is missing in it; when nothing is, writes the table."""
    os.environ["PODIUM_DATA"] = str(folder)
    from pipeline.config.load import load
    from pipeline.stages import data
    from pipeline.work import Work

    settings, name = load("experiments/facemask3.yaml", experiment(grid()[0], 0))
    work = Work(settings, name, "folds")
    table = work.resolve(data.folds(work), "folds.csv")
    lines = [json.loads(line) for line in scratch.read_text().splitlines()] if scratch.is_file() else []
    done = {(line["setting"], line["seed"]) for line in lines}
    wanted = [(index, seed, str(table)) for seed in SEEDS for index in range(len(grid())) if (index, seed) not in done]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool, scratch.open("a") as file:
        for line in pool.imap_unordered(record_one, wanted):
            file.write(line + "\n")
            file.flush()
            lines.append(json.loads(line))
            print(
                f"{len(lines)} of {len(grid()) * len(SEEDS)}: {grid()[lines[-1]['setting']]} {lines[-1]['oof']:.4f}",
                flush=True,
            )
    lines.sort(key=lambda line: (line["seed"], line["setting"]))
    about = {"levels": LEVELS, "seeds": SEEDS, "epochs": EPOCHS, "n_folds": N_FOLDS, "metric": "macro_f1",
             "data": "facemask3, 2,252 faces at 32 px, test_resnet from scratch, batches of 32"}  # fmt: skip
    rows = ",\n".join(json.dumps(line) for line in lines)
    TABLE.write_text(f'{{"about": {json.dumps(about)},\n"rows": [\n{rows}\n]}}\n')
    print(f"{TABLE.relative_to(HERE.parent)}: {TABLE.stat().st_size / 1e3:.0f} KB")


# --- replay --------------------------------------------------------------------------------------------------------


class Table:
    """score(setting, fold): by epoch, as trained by the first seed. truth: mean of all seeds' out-of-fold scores."""

    def __init__(self, path: Path):
        rows = json.loads(path.read_text())["rows"]
        self.n = max(row["setting"] for row in rows) + 1
        first = {row["setting"]: row for row in rows if row["seed"] == SEEDS[0]}
        again = {row["setting"]: row for row in rows if row["seed"] == SEEDS[1]}
        self.curves = [first[i]["curves"] for i in range(self.n)]
        self.oof = [first[i]["oof"] for i in range(self.n)]
        self.fresh = [again[i]["oof"] for i in range(self.n)]
        self.truth = [(a + b) / 2 for a, b in zip(self.oof, self.fresh, strict=True)]
        self.best = max(self.truth)

    def regret(self, setting: int | None) -> float:
        return self.best - (self.truth[setting] if setting is not None else min(self.truth))


# epochs spent, the setting that would be chosen now, and the best few that would be trained again
Trace = list[tuple[int, int, list[int]]]


def distributions() -> dict:
    """Order is given to whoever can use it: rates are whole numbers, not names."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    return {name: IntDistribution(0, len(levels) - 1) if name == "lr"
            else CategoricalDistribution(list(range(len(levels)))) for name, levels in LEVELS.items()}  # fmt: skip


def index_of(params: dict) -> int:
    index = 0
    for name, levels in LEVELS.items():
        index = index * len(levels) + int(params[name])
    return index


def random_search(table: Table, seed: int, budget: int) -> Trace:
    """Every fold of settings in random order, none twice; the best of them."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(table.n)
    trace: Trace = []
    seen: list[int] = []
    for setting in order:
        seen.append(int(setting))
        epochs = len(seen) * N_FOLDS * EPOCHS
        if epochs > budget:
            break
        trace.append((epochs, max(seen, key=lambda i: table.oof[i]), []))
    return trace


def with_optuna(pruner_of) -> object:
    """TPE and one of Optuna's pruners, told of every epoch of every fold, folds in their own order.

    At a step all trials stand on the same fold and epoch, which is what these pruners compare. A setting that was
    trained before costs nothing when it is drawn again.
    """

    def run(table: Table, seed: int, budget: int) -> Trace:
        import optuna

        sampler = optuna.samplers.TPESampler(seed=seed)
        study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner_of(optuna))
        epochs, trace, paid, whole = 0, [], {}, {}
        for _ in range(200):
            trial = study.ask(distributions())
            setting, pruned, step = index_of(trial.params), False, 0
            for curve in table.curves[setting]:
                for score in curve:
                    step += 1
                    trial.report(score, step)
                    pruned = trial.should_prune()
                    if pruned:
                        break
                if pruned:
                    break
            epochs += max(step - paid.get(setting, 0), 0)
            paid[setting] = max(step, paid.get(setting, 0))
            if epochs > budget:
                break
            if pruned:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                whole[setting] = table.oof[setting]
                study.tell(trial, table.oof[setting])
            if whole:
                trace.append((epochs, max(whole, key=whole.get), []))
        return trace

    return run


def space_of_table():
    """Podium's own space over the grid; settings are looked up and not built anew each time."""
    from pipeline.config.load import load
    from pipeline.tune.space import Axis, Space

    settings = [load("experiments/facemask3.yaml", experiment(setting, 0))[0] for setting in grid()]
    axes = [Axis(name, f"train.{name}", "int", 0, len(levels) - 1, step=1.0) if name == "lr" else
            Axis(name, f"train.{name}", "choice", choices=tuple(range(len(levels))))
            for name, levels in LEVELS.items()]  # fmt: skip

    class Grid(Space):
        def settings(self, raw):
            return settings[index_of(raw)]

        def point(self, wanted):
            return dict(BASELINE)

    return Grid(axes, settings[index_of(BASELINE)], lambda changes: settings[0])


BASELINE = {"loss": 0, "lr": 1, "schedule": 0, "accumulation": 0}  # what experiments/facemask3.yaml says by hand


def podium(levels: str = "both", **prune) -> object:
    """`make tune`: the study's own code, with curves from the table in place of trainings."""
    space = []

    def run(table: Table, seed: int, budget: int) -> Trace:
        from optuna.storages import InMemoryStorage

        from pipeline.config.tuning import Prune, Tune
        from pipeline.tune.choice import candidates
        from pipeline.tune.study import About, Study

        space[:] = space or [space_of_table()]
        config = Tune(seed=seed, prune=Prune(levels=levels, **prune))
        about = About("replay", "table", 1, tuple(range(N_FOLDS)), "driver")
        study = Study(InMemoryStorage(), space[0], about, config)
        epochs, trace = 0, []
        while trial := study.ask():
            setting = index_of(trial.raw)
            why = ""
            for fold in trial.order:
                curve = table.curves[setting][fold]
                for epoch in range(1, len(curve) + 1):
                    epochs += 1
                    if why := study.epoch(trial, fold, curve[:epoch]):
                        break
                study.keep_curve(trial, fold, curve[:epoch], 0.0, is_done=not why)
                if why := why or study.between_folds(trial):
                    break
            if epochs > budget:
                break
            if why:
                study.prune(trial, why)
            else:
                study.finish(trial, table.oof[setting])
            few = [index_of(t.raw) for t in candidates(study.trials, config.confirm.top, 1)]
            trace.append((epochs, index_of(study.best.raw), few))
        return trace

    return run


STRATEGIES = {
    "random search": random_search,
    "TPE, no pruning": with_optuna(lambda optuna: optuna.pruners.NopPruner()),
    "TPE, MedianPruner": with_optuna(lambda optuna: optuna.pruners.MedianPruner()),
    "TPE, Hyperband": with_optuna(
        lambda optuna: optuna.pruners.HyperbandPruner(min_resource=2, max_resource=N_FOLDS * EPOCHS, reduction_factor=3)
    ),
    "Podium": podium(),
    "Podium, epochs only": podium("epochs"),
    "Podium, folds only": podium("folds"),
    "Podium, no pruning": podium("off"),
}
AGAIN = "Podium, best 3 trained again"  # the same search, with the epochs of the honest choice on top


WITHIN = 0.005  # of the table's best, in macro F1
BUDGETS = (240, 480, 720, 960)  # epochs; a whole setting has 40


def with_the_choice(trace: Trace, table: Table) -> Trace:
    """As if at each point the search ended, and the best few and the baseline were trained by the other seed."""
    return [(epochs + (len(few) + 1) * N_FOLDS * EPOCHS, max(few, key=lambda i: table.fresh[i]) if few else chosen, few)
            for epochs, chosen, few in trace]  # fmt: skip


def first_time_within(trace: Trace, table: Table) -> float:
    """Epochs until the choice is within 0.5 points of the best, and stays there; infinite where it never does."""
    since = float("inf")
    for epochs, setting, _ in trace:
        if table.regret(setting) > WITHIN:
            since = float("inf")
        elif since == float("inf"):
            since = epochs
    return since


def regret_at(trace: Trace, table: Table, budget: int) -> float:
    chosen = [setting for epochs, setting, _ in trace if epochs <= budget]
    return table.regret(chosen[-1] if chosen else None)


def one_repeat(job: tuple[str, int]) -> tuple[str, Trace]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name, seed = job
    table = Table(TABLE)
    return name, STRATEGIES[name](table, seed, table.n * N_FOLDS * EPOCHS if name == "random search" else BUDGETS[-1])


def summary(name: str, traces: list[Trace], table: Table) -> dict:
    import statistics

    times = sorted(first_time_within(trace, table) for trace in traces)
    regrets = {budget: [regret_at(trace, table, budget) for trace in traces] for budget in BUDGETS}
    return {
        "strategy": name,
        "median": statistics.median(times),
        "quartiles": [times[len(times) // 4], times[3 * len(times) // 4]],
        "reached": sum(time <= BUDGETS[-1] for time in times) / len(times),
        "regret": {b: [statistics.fmean(r), statistics.stdev(r) / len(r) ** 0.5] for b, r in regrets.items()},
    }


def replay(repeats: int, jobs: int, names: list[str]) -> None:
    """Every strategy `repeats` times; prints the table of the result file, in Markdown."""
    table = Table(TABLE)
    wanted = [(name, seed) for name in names for seed in range(repeats)]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        done = pool.map(one_repeat, wanted, chunksize=4)
    near = sum(table.best - truth <= WITHIN for truth in table.truth)
    print(f"{table.n} settings, {near} within {WITHIN} of the best ({table.best:.4f}); {repeats} repeats\n")
    heads = " | ".join(f"regret at {budget}" for budget in BUDGETS)
    print(
        f"| strategy | epochs, median (quartiles) | reached by {BUDGETS[-1]} | {heads} |\n"
        f"|{' --- |' * (3 + len(BUDGETS))}"
    )
    groups = {name: [trace for n, trace in done if n == name] for name in names}
    if "Podium" in groups:
        groups[AGAIN] = [with_the_choice(trace, table) for trace in groups["Podium"]]
    for name, traces in groups.items():
        r = summary(name, traces, table)
        low, high = (f"{value:.0f}" if value < float("inf") else "never" for value in r["quartiles"])
        median = f"{r['median']:.0f}" if r["median"] < float("inf") else "never"
        regrets = " | ".join(f"{100 * mean:.2f} +- {100 * error:.2f}" for mean, error in r["regret"].values())
        print(f"| {name} | {median} ({low} to {high}) | {r['reached']:.0%} | {regrets} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    recording = verbs.add_parser("record")
    recording.add_argument("folder", type=Path)
    recording.add_argument("--jobs", type=int, default=1)
    recording.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "podium-tune-table.jsonl")
    replaying = verbs.add_parser("replay")
    replaying.add_argument("--repeats", type=int, default=200)
    replaying.add_argument("--jobs", type=int, default=2)
    replaying.add_argument("--only", nargs="*", default=list(STRATEGIES))
    args = parser.parse_args()
    if args.verb == "record":
        record(args.folder.resolve(), args.jobs, args.scratch)
    else:
        replay(args.repeats, args.jobs, args.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())

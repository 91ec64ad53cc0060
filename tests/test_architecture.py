"""The house rules as data: who may import whom, who alone may import what, and how long a file may be."""

import ast
from pathlib import Path

import pytest

from pipeline.config.settings import ROOT

PACKAGE = ROOT / "pipeline"

# room -> the rooms it may import. A room is a module or a folder of `pipeline/`; inside a folder anything goes.
MAY_IMPORT: dict[str, set[str]] = {
    "atomic": set(),
    "config": set(),
    "kept": {"config", "atomic"},
    "refused": {"config"},
    "competition": {"config"},
    "metrics": {"config"},
    "answers": {"config", "competition", "metrics"},  # the form is the contract's, the scores are of its cells
    "task": set(),
    "losses": {"config", "task"},
    "optim": {"config"},
    "images": {"config", "competition", "atomic", "kept"},
    "augment": {"config"},
    "eda": {"config", "competition"},  # facts of images come to it as arrays
    "folds": {"config", "competition", "kept"},
    "feed": {"config", "augment"},
    "model": {"config", "kept", "optim", "task"},
    "model_checks": {"config", "model", "optim"},
    "precision": {"config", "kept", "model"},
    "pseudo": {"metrics", "train"},
    "views": {"config"},
    "predict": {"config", "images", "augment", "model", "task", "views"},
    "infer": {"config", "images", "model", "predict", "receipts"},
    "export": {"config", "augment", "model", "predict", "receipts", "task"},
    "gradcam": {"config", "augment", "model", "task"},
    "review": {"metrics"},
    "average": set(),
    "records": {"config"},
    "resume": {"config", "kept", "average", "records"},
    "train": {
        *("config", "metrics", "task", "losses", "optim", "augment", "feed", "model", "average", "precision"),
        *("predict", "records", "resume"),
    },
    "crossval": {
        *(
            "config",
            "competition",  # the units of resampling
            "folds",
            "metrics",
            "model",
            "precision",
            "predict",
            "pseudo",
            "records",
            "resume",
            "train",
            "atomic",
            "kept",
        ),
    },
    "ensemble": {"config", "metrics", "compare", "crossval"},
    "stream": {"ensemble", "infer", "predict", "views"},
    "leaderboard": set(),
    "expected": {"config", "metrics"},
    "shares": set(),
    "submit": {"config", "competition", "answers", "atomic"},
    "score": {"config", "competition", "answers", "metrics"},
    "compare": {"config", "competition", "metrics", "crossval"},  # of competition the units of resampling
    "lr_range": {"config", "augment", "feed", "losses", "model", "optim", "precision", "train"},
    "tune": {"config", "compare", "refused"},  # trains nothing and tracks nothing itself: `stages` puts that in
    "report": {"atomic"},
    "progress": {"records"},  # the type of a record, nothing that runs
    "study_progress": {"tune"},
    "tracking": {
        "config",
        "atomic",
        "answers",
        "infer",
        "images",
        "model",
        "receipts",
    },  # the last five for the model that is served
    "receipts": {"config", "kept"},
    "server": {"config"},
    "watched": set(),  # run as a script, by `server`
    "ui": {"config", "tracking", "server"},
    "serve": {"config", "tracking", "server"},
    "dashboard": {"config", "server"},
    "fixes": {"config", "atomic"},
    "work": {
        *("config", "competition", "images", "folds", "model", "model_checks", "task", "tracking", "receipts"),
        *("progress", "atomic"),
    },
    "stages": {"*"},
    "__main__": {"*"},
    "__init__": set(),
}
ONLY_HERE = {
    "mlflow": {"tracking"},
    "optuna": {"tune"},
    "matplotlib": {"report"},
    "timm": {"model", "model_checks", "optim"},
}
MAX_LINES = 320


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str) -> set[str]:
    """Dotted names of everything imported anywhere in the source, inside functions and type checks too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_imported(source: str) -> set[str]:
    return {name.split(".")[1] for name in imports(source) if name.startswith("pipeline.")}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(path):
    room = room_of(path)
    assert room in MAY_IMPORT, f"a new room: say in this table and in LOG.md what {room} may import"
    imported = rooms_imported(path.read_text()) - {room}
    if MAY_IMPORT[room] != {"*"}:
        assert imported <= MAY_IMPORT[room], f"{room} imports {sorted(imported - MAY_IMPORT[room])}"
    assert "stages" not in imported or room in ("__main__", "stages")
    assert "__main__" not in imported


def test_the_table_would_catch_a_forbidden_import():
    assert rooms_imported("def f():\n    from pipeline import tracking\n") == {"tracking"}
    assert rooms_imported("import pipeline.competition.csv\nfrom pipeline.train import x\n") == {"competition", "train"}
    assert "tracking" not in MAY_IMPORT["train"] | MAY_IMPORT["crossval"] | MAY_IMPORT["report"]


def test_data_flows_one_way():
    order: list[str] = []
    left = {room: allowed for room, allowed in MAY_IMPORT.items() if allowed != {"*"}}
    while left:
        free = [room for room, allowed in left.items() if allowed <= set(order)]
        assert free, f"a circle among {sorted(left)}"
        order += free
        left = {room: allowed for room, allowed in left.items() if room not in free}


@pytest.mark.parametrize("library", ONLY_HERE)
def test_a_library_at_the_edge_is_imported_in_its_room_only(library):
    rooms = {room_of(path) for path in files() if any(n.split(".")[0] == library for n in imports(path.read_text()))}
    assert rooms <= ONLY_HERE[library]


def test_answers_are_named_by_the_score_and_by_what_makes_or_places_them_only():
    words = ("answers_csv", "answers.csv")
    named = {str(path.relative_to(PACKAGE)) for path in files() if any(word in path.read_text() for word in words)}
    assert named == {"score.py", "stages/submission.py", "config/data.py", "competition/digits.py"}
    stages = ast.parse((PACKAGE / "stages/submission.py").read_text())
    naming = {f.name for f in stages.body if isinstance(f, ast.FunctionDef) and "answers" in ast.unparse(f)}
    assert naming == {"score"}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_opens_with_its_contract_and_is_not_too_long(path):
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source)), f"{path.name} does not say what it is for"
    assert len(source.splitlines()) <= MAX_LINES


def test_no_drawer_for_odds_and_ends():
    assert not {"utils", "common", "helpers", "misc"} & {path.stem for path in files()}


def test_nothing_is_unpickled():
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "torch.load",
                "pickle.load",
                "np.load",
                "joblib.load",
            }:
                safe = [k for k in node.keywords if k.arg == "weights_only" and ast.unparse(k.value) == "True"]
                assert ast.unparse(node.func) == "torch.load" and safe, f"{path.name}:{node.lineno}"

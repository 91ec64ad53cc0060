"""The README is true: everything that exists is in it, everything in it exists, and every command in it was run here."""

import re
import shlex
import tomllib
import urllib.request
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import only_here, own_files, serving
from PIL import Image

from pipeline.__main__ import VERBS
from pipeline.config.load import load
from pipeline.config.settings import ROOT
from pipeline.ui import link

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z]+):.*## ", MAKEFILE, re.MULTILINE)
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
WALK_TEXT = README.split("\n## A whole competition, step by step\n")[1].split("\n## ")[0]
WALK = re.findall(r"```(\w*)\n(.*?)```", WALK_TEXT, re.DOTALL)
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines() if line.strip()]
IN_WALK = {line for language, text in WALK if language == "sh" for line in text.splitlines()}


def cells(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without their back-ticks."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row] for row in rows]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def test_every_target_and_verb_is_in_the_table_and_nothing_else():
    rows = cells("Targets")
    assert {word.removeprefix("make ") for row in rows for word in words(row[0])} == set(TARGETS)
    assert {word for row in rows for word in words(row[1])} == set(VERBS)
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony and set(phony[1].split()) == set(TARGETS)


def test_every_file_is_in_the_table_and_every_file_of_the_table_exists():
    listed = {word for row in cells("Files") for word in words(row[0])}
    package = {
        str(p.relative_to(ROOT / "pipeline")) for p in (ROOT / "pipeline").rglob("*.py") if p.name != "__init__.py"
    }
    assert package <= listed
    experiments = {str(p.relative_to(ROOT)) for p in (ROOT / "experiments").rglob("*.yaml")}
    assert experiments <= listed
    made_later = {"data/"}
    for name in listed - made_later:
        assert (ROOT / name).exists() or (ROOT / "pipeline" / name).exists(), name


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    required = [*project["project"]["dependencies"], *groups["dev"], *groups["kaggle"]]
    names = {re.split(r"[<>=]", line)[0] for line in required}
    assert {word for row in cells("Dependencies") for word in words(row[0])} == names
    source = "\n".join(path.read_text() for path in (ROOT / "pipeline").rglob("*.py"))
    for name, reason in cells("Dependencies"):
        if "nothing imports it yet" in reason:
            assert f"import {name.strip('`')}" not in source, f"{name} is imported by now"


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_no_machines_path_and_no_registry_is_named_anywhere():
    registry = "|".join(["pypi" + r"\.org", "python" + "hosted", r"(?<!--no-emit-)index-" + "url"])
    machine = r"(?<![\w.~])/(?:work|root|home|farm)/\w"
    for path in own_files():
        hits = re.findall(f"{registry}|{machine}", path.read_bytes().decode("utf-8", "ignore"))
        assert not hits, f"{path.name}: {hits[:3]}"


def python_call(checkout, command: str) -> list[str]:
    """What a command of the README comes to: the arguments behind `python -m pipeline`."""
    if command.startswith("make"):
        dry = checkout.make("-n", *shlex.split(command)[1:]).stdout
        command = dry.strip().splitlines()[-1]
    before, _, arguments = command.partition(" -m pipeline ")
    assert before.endswith("bin/python"), command
    return shlex.split(arguments)


@pytest.mark.parametrize(
    "line",
    [line for line in COMMANDS if line not in IN_WALK and not re.match(r"make (test|ui|dashboard|submit$|help)", line)],
)
def test_every_command_works(finished, line, monkeypatch, tmp_path):
    command, _, comment = line.partition("#")
    if command.startswith("PODIUM_DATA=FOLDER "):
        monkeypatch.setenv("PODIUM_DATA", str(lay_out_a_mask_competition(tmp_path)))
        command = command.removeprefix("PODIUM_DATA=FOLDER ")
    if "mine.yaml" in command:
        lay_out_a_competition_as_the_readme_says(finished)
    if command.startswith("make tune"):  # in a process of its own, as its workers are; a few trials tell enough
        finished.make(*shlex.split(command.replace("TRIALS=40", "TRIALS=2"))[1:])
        return
    expect = 2 if comment.strip() == "fails" else 0
    _, errors = finished.main(*python_call(finished, command.strip()), expect=expect)
    if expect:
        outputs = [text for language, text in BLOCKS if language == ""]
        assert errors in outputs, errors  # the README shows exactly what is printed


def test_the_walk_goes_from_one_command_to_the_next_as_it_is_shown(finished):
    """With two folds of one epoch other verdicts fall and other classes move, so the lines' beginnings are compared.

    How fast it predicted is told only where that takes long.
    """

    def beginnings(text: str) -> list[str]:
        of_the_model = (
            "train   fold",
            "labels look wrong",
            "warning:",
            "compare ",
            "rank correlation",
            "deviates",
            "views",
            " predicted in ",
            "score   up",
            "score   sub",
            "note: submission",
        )
        kept = [line for line in text.splitlines() if line.strip() and not any(part in line for part in of_the_model)]
        return [re.sub(r"\b[0-9a-f]{8}\b|[\d.,%+-]*\d[\d.,%+-]*", "N", " ".join(line.split()[:2])) for line in kept]

    printed = ""
    for language, text in WALK:
        if language == "sh":
            printed = ""
            for line in text.splitlines():
                printed += finished.main(*python_call(finished, line))[0]
            continue
        assert beginnings(text) == beginnings(printed), printed
    assert "byte-identical" in printed


@pytest.mark.parametrize("text", [text for language, text in BLOCKS if language == "yml"])
def test_every_piece_of_settings_is_valid(text, tmp_path):
    (tmp_path / "piece.yaml").write_text(text.replace("base: base/", f"base: {ROOT}/experiments/base/"))
    assert load(tmp_path / "piece.yaml")[1] == "piece"


def lay_out_a_mask_competition(data: Path) -> Path:
    """The mask-wearing competition's layout with five tiny persons of each kind, seven photos each."""
    root, rng = data / "mask18", np.random.default_rng(0)
    rows = ["id,gender,race,age,path"]
    for i, (gender, age) in enumerate(5 * list(product(("male", "female"), (25, 45, 60)))):
        rows.append(f"{i:06d},{gender},Asian,{age},{i:06d}_{gender}_Asian_{age}")
        photo(root / "train/images" / rows[-1].rpartition(",")[2], ("incorrect_mask", "normal"), rng)
        photo(root / "train/images" / rows[-1].rpartition(",")[2], tuple(f"mask{n}" for n in range(1, 6)), rng)
    photo(root / "eval/images", ("a", "b"), rng)
    (root / "train/train.csv").write_text("\n".join(rows) + "\n")
    (root / "eval/info.csv").write_text("ImageID,ans\na.jpg,0\nb.jpg,0\n")
    return data


def photo(folder: Path, names: tuple[str, ...], rng: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{name}.jpg")


def lay_out_a_competition_as_the_readme_says(checkout) -> None:
    [text] = [text for language, text in BLOCKS if language == "yaml"]
    settings = yaml.safe_load(text)["competition"]
    (checkout.root / "experiments/mine.yaml").write_text(text)
    root = checkout.root / settings["root"]
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    train = [(f"p{n // 3}_{n % 3}", "ab"[n // 3 % 2], f"person{n // 3}") for n in range(60)]
    for name in [*(row[0] for row in train), "t0", "t1"]:
        Image.fromarray(rng.integers(0, 255, (20, 16, 3)).astype(np.uint8)).save(root / "images" / f"{name}.jpg")
    (root / "train.csv").write_text("image_id,label,person\n" + "".join(",".join(row) + "\n" for row in train))
    (root / "test.csv").write_text("image_id\nt0\nt1\n")
    (root / "sample_submission.csv").write_text("image_id,label\nt0,a\nt1,a\n")


def test_the_first_output_in_the_readme_is_what_make_submit_prints(first):
    def shape(text: str) -> set[str]:
        return {
            re.sub(r"(?<=hash )\w+|[\d.,%e-]*\d[\d.,%e-]*", "N", line) for line in text.splitlines() if line.strip()
        }

    shown = next(text for language, text in BLOCKS if language == "" and "submit " in text)
    # of a model of one epoch: labels look wrong to it, and a bias may help it
    of_the_model = ("labels look wrong", "beyond noise", "warning: answered", " predicted in ", "installing")

    def lines(text: str) -> set[str]:
        return {line for line in shape(text) if not any(part in line for part in of_the_model)}

    assert lines(shown) == lines(first[1])


def test_the_first_two_commands_are_the_promised_ones(first):
    checkout, _ = first
    assert COMMANDS[:2] == ["make submit", "make test"]
    assert "-m pytest" in checkout.make("-n", "test").stdout


def test_help_is_the_default_target_and_lists_every_target_with_a_line(first):
    checkout, _ = first
    listed = dict(re.findall(r"^  make (\w+) +(.+)$", checkout.make().stdout, re.MULTILINE))
    assert list(listed) == TARGETS and all(listed.values())
    assert checkout.make("help").stdout == checkout.make().stdout


def test_clean_keeps_data_and_runs_unless_told_otherwise(finished):
    for name in (".venv/x", ".uv/x", "pipeline/__pycache__/x"):
        (finished.root / name).parent.mkdir(parents=True, exist_ok=True)
        (finished.root / name).touch()
    finished.make("clean")
    assert not any((finished.root / name).exists() for name in (".venv", ".uv", "pipeline/__pycache__"))
    assert (finished.root / "data/digits/train.csv").exists() and (finished.runs / "digits/train.json").exists()
    finished.make("clean", "ALL=1")
    assert not (finished.root / "data").exists()
    assert [path.name for path in finished.runs.iterdir()] == [".gitkeep"]
    assert (finished.root / "pipeline/train.py").exists()


def test_set_up_has_nothing_to_do_where_it_was_done_and_locks_only_versions_with_hashes(first):
    assert first[0].make("setup").stdout.strip() in ("", "make: Nothing to be done for 'setup'.")
    for lock in ("requirements.lock", "requirements-uv.lock"):
        text = (ROOT / lock).read_text()
        pinned = re.findall(r"^[a-zA-Z0-9_.-]+==\S+.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
        assert pinned and all("--hash=sha256:" in entry for entry in pinned)


def test_lint_types_and_lock_call_their_tools(first):
    for target, tool in (("lint", "ruff"), ("types", "ty"), ("lock", "pip compile")):
        assert tool in first[0].make("-n", target).stdout


def test_ui_serves_the_runs_on_this_machine_only_and_prints_the_link(finished):
    with serving(finished, "ui") as (address, printed):
        assert f"open {link(address, '1')}" in printed
        with urllib.request.urlopen(f"{address}/", timeout=30) as page:  # noqa: S310 (ours)
            assert "MLflow" in page.read().decode()
        assert only_here(address)

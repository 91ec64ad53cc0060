"""Settings: every mistake at once, with its place; the same settings, however written, the same fingerprint."""

import time
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pipeline.config.load import differences, load
from pipeline.config.mistakes import Mistakes
from pipeline.config.settings import ROOT, Experiment
from pipeline.config.training import Augment, Constant, Train, notes

GOOD = "competition: {source: digits}\n"


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str, name: str = "one.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def mistakes_of(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(Mistakes) as caught:
        load(path, overrides)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_all_mistakes_are_told_at_once_with_place_finding_and_what_is_valid(written):
    path = written(
        "competition: {source: digits}\n"
        "trian: {epochs: 3}\n"
        "epochs: 4\n"
        "train:\n"
        "  lr: fast\n"
        "  batch_size: 0\n"
        "  schedule: {name: cosine, finl: 1}\n"
        "images: {mode: rgb, px: small}\n"
    )
    told = mistakes_of(path, "folds.k=1", "model.nmae=resnet18")
    expected = [
        ("trian", ":2", "did you mean 'train'"),
        ("epochs", ":3", "did you mean 'train.epochs'"),
        ("train.lr", ":5", "'fast'", "valid number"),
        ("train.batch_size", ":6", "found 0", "greater than or equal to 1"),
        ("train.schedule.finl", ":7", "did you mean 'final'"),
        ("images.mode", ":8", "'rgb'", "'RGB'", "'L'"),
        ("images.px", ":8", "'small'", "valid integer", "'model'"),
        ("folds.k", "(SET)", "found 1"),
        ("model.nmae", "(SET)", "did you mean 'name'"),
    ]
    for key, *parts in expected:
        [line] = [line for line in told if line.startswith(f"{key} ")]
        assert all(part in line for part in parts), (key, line)
    assert len(told) == len(expected)


def test_an_unknown_kind_of_section_names_the_known_ones(written):
    [line] = mistakes_of(written(GOOD + "train:\n  schedule: {name: cosin}\n"))
    assert "train.schedule.name" in line and "did you mean 'cosine'" in line and "'constant'" in line


def test_numbers_and_words_are_read_as_yaml_1_2(written):
    settings, _ = load(written(GOOD + "train: {lr: 1e-3, clip_norm: off}\n"))
    assert settings.train.lr == 1e-3
    assert settings.train.clip_norm == "off"  # PyYAML's own rules would make it False
    assert load(written(GOOD + "folds: {seed: 010}\n"))[0].folds.seed == 10
    assert "train.epochs" in mistakes_of(written(GOOD + "train: {epochs: true}\n"))[0]  # not 1


def test_a_key_given_twice_is_a_mistake(written):
    [line] = mistakes_of(written(GOOD + "train:\n  lr: 0.1\n  lr: 0.2\n"))
    assert "train.lr" in line and ":4" in line and ":3" in line


def test_a_base_is_inherited_key_by_key_and_the_nearer_file_wins(written):
    written(GOOD + "train: {epochs: 3, lr: 0.1}\nmodel: {name: resnet34, drop_rate: 0.1}\n", "grand.yaml")
    written("base: grand.yaml\ntrain: {lr: 0.2}\n", "parent.yaml")
    path = written("base: parent.yaml\nmodel: {name: resnet50}\n", "child.yaml")
    settings, name = load(path, ["train.epochs=7"])
    assert (settings.train.epochs, settings.train.lr, name) == (7, 0.2, "child")
    assert (settings.model.name, settings.model.drop_rate) == ("resnet50", 0.1)


def test_another_kind_of_section_replaces_the_bases_parameters(written):
    written(GOOD + "train: {schedule: {name: step, step_size: 3}}\n", "base.yaml")
    path = written("base: base.yaml\ntrain: {schedule: {name: constant}}\n", "child.yaml")
    assert load(path)[0].train.schedule == Constant(name="constant")
    assert load(path, ["train.schedule.name=cosine"])[0].train.schedule.name == "cosine"


def test_bases_that_go_in_a_circle_or_are_missing_are_told(written):
    written(f"base: two.yaml\n{GOOD}", "one.yaml")
    assert any("circle" in line for line in mistakes_of(written("base: one.yaml\n", "two.yaml")))
    lines = mistakes_of(written(f"base: oen.yaml\n{GOOD}", "three.yaml"))
    assert any("no such file" in line and "one.yaml" in line for line in lines)


@pytest.mark.parametrize("text", ["a: [1\n", "- a\n- b\n", "a: b: c\n", "\tx: 1\n"])
def test_a_file_that_is_no_mapping_is_told_with_its_line(written, text):
    assert any("not readable as YAML" in line for line in mistakes_of(written(text)))


@pytest.mark.parametrize("override", ["train.lr", "=3", "train..lr=3", "train.lr=[1"])
def test_a_malformed_override_is_told(written, override):
    assert any(line.startswith("SET") for line in mistakes_of(written(GOOD), override))


def test_settings_that_cannot_work_together_are_told(written):
    [line] = mistakes_of(written(GOOD + "train: {epochs: 2, schedule: {name: cosine, warmup_epochs: 2}}\n"))
    assert "warmup_epochs=2" in line and "train.epochs=2" in line


def test_the_fingerprint_is_of_the_values_not_of_their_spelling(written):
    one = load(written(GOOD + "train:\n  lr: 0.01\n  epochs: 10\n"))[0]
    other = load(written("# a comment\ntrain: {epochs: 10, lr: 1e-2}\n" + GOOD))[0]
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != load(written(GOOD + "train: {lr: 0.02}\n"))[0].fingerprint


def test_settings_are_frozen(written):
    settings, _ = load(written(GOOD))
    with pytest.raises(ValidationError):
        settings.train.lr = 1.0


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_is_valid_and_opens_with_its_story(path):
    if path.parent.name != "base":  # which is no experiment by itself
        settings, name = load(path)
        assert isinstance(settings, Experiment) and name == path.stem
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for part in ("Hypothesis:", "Command:", "Minutes:", "Score:"):
        assert any(part in line for line in head), f"{path.name} opens without its {part}"


def test_resolved_settings_survive_a_round_trip_through_yaml(written):
    settings, _ = load(ROOT / "experiments" / "digits.yaml")
    again, _ = load(written(yaml.safe_dump(settings.model_dump(mode="json"))))
    assert again == settings


def test_a_section_that_was_set_to_a_value_does_not_swallow_what_follows(written):
    lines = mistakes_of(written(GOOD), "train=5", "train.lr=0.1", "compettion.x=1")
    assert any("train.lr=0.1" in line and "train is 5" in line for line in lines)
    assert any(line.startswith("train (SET): found 5; valid: a section with epochs") for line in lines)
    assert any(line.startswith("compettion (SET): unknown key, did you mean 'competition'?") for line in lines)


def test_a_loss_given_as_a_word_names_the_sections_keys(written):
    [line] = mistakes_of(written(GOOD), "train.loss=focal")
    assert "found 'focal'" in line and "{name: focal}" in line and "cross_entropy, focal, bce" in line


@pytest.mark.parametrize("content", ["competition: x".encode("utf-16"), b"a: &a {b: *a}\n", b"\x00"])
def test_files_that_are_no_yaml_text_are_told(tmp_path, content):
    (tmp_path / "odd.yaml").write_bytes(content)
    assert any("odd.yaml" in line for line in mistakes_of(tmp_path / "odd.yaml"))


def test_a_folder_in_place_of_a_file_is_told(tmp_path):
    assert any("is a folder" in line for line in mistakes_of(tmp_path))


@pytest.mark.parametrize("images", ["{mode: L, mean: [0.5, 0.4]}", "{std: [0.1]}", "{std: [0.1, 0.0, 0.1]}"])
def test_mean_and_std_fit_the_channels(written, images):
    [line] = mistakes_of(written(GOOD + f"images: {images}\n"))
    assert "images.mean" in line or "images.std" in line


@pytest.mark.parametrize("base", sorted((ROOT / "experiments/base").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_base_gives_a_whole_experiment_and_what_a_file_says_wins(tmp_path, base):
    file = tmp_path / "mine.yaml"
    file.write_text(f"base: {base}\ncompetition: {{source: digits}}\ntrain: {{epochs: 7}}\n")
    settings, _ = load(file)
    assert settings.train.epochs == 7 and settings.train.precision == "auto" and settings.augment.flip == 0.5


def test_an_imbalance_that_is_corrected_twice_is_noted():
    assert notes(Train(), Augment()) == []
    assert notes(Train(sampler={"name": "balanced"}, loss={"name": "focal"}), Augment()) == []
    [note] = notes(Train(class_weights={"name": "inverse"}, sampler={"name": "balanced"}), Augment())
    assert "twice" in note and "train.sampler" in note and "train.class_weights" in note
    [note] = notes(
        Train(class_weights={"name": "inverse"}, sampler={"name": "balanced"}, loss={"name": "balanced_softmax"}),
        Augment(),
    )
    assert "three times" in note
    [note] = notes(Train(loss={"name": "soft_f1"}), Augment())
    assert "lost" in note


@pytest.mark.parametrize(
    ("train", "augment", "told"),
    [
        ({"schedule": {"name": "step"}}, {}, "never drops the learning rate: its first drop is due after 10 epochs"),
        ({"schedule": {"name": "multistep", "milestones": [9], "warmup_epochs": 2}}, {}, "and 8 follow the warm-up"),
        ({"schedule": {"name": "plateau", "patience": 50}}, {}, "never drops"),
        ({"epochs": 3}, {"mixup": 0.2, "mix_stop_epochs": 3}, "leaves no epoch of 3 that mixes"),
    ],
)
def test_what_would_never_happen_is_noted(train, augment, told):
    [note] = notes(Train.model_validate(train), Augment.model_validate(augment))
    assert told in note


def test_a_schedule_that_drops_is_not_noted():
    for schedule in (
        {"name": "step", "step_size": 3},
        {"name": "multistep", "milestones": [3, 30]},
        {"name": "plateau"},
    ):
        assert notes(Train.model_validate({"schedule": schedule}), Augment()) == []


@pytest.mark.parametrize("base", ["fast", "strong"])
@pytest.mark.parametrize(
    ("target", "loss"), [("multilabel", "bce"), ("regression", "mse"), ("ordinal", "cross_entropy")]
)
def test_a_bases_loss_follows_the_target_and_the_experiments_own_is_refused(tmp_path, base, target, loss):
    file = tmp_path / "own.yaml"
    metric = {"regression": "rmse", "ordinal": "quadratic_kappa"}.get(target, "macro_f1")
    head = f"base: {ROOT}/experiments/base/{base}.yaml\ncompetition: {{source: digits, target: {target}, metric: {metric}}}\n"
    file.write_text(head)
    settings, _ = load(file)
    assert settings.train.loss.name == loss and settings.train.lr == 1e-3
    assert (settings.augment.mixup > 0) == (base == "strong" and target == "multilabel")
    named = load(file, ["train.loss={name: huber}" if target == "regression" else "train.loss.name=focal"])[0]
    assert named.train.loss.name in ("huber", "focal")
    if target != "ordinal":
        for own in ("train: {loss: {name: cross_entropy}}\n", "train: {loss: {name: corn}}\n"):
            file.write_text(head + own)
            assert any("has no meaning for competition.target" in line for line in mistakes_of(file))
        file.write_text(head)
        for text in ("train.loss.name=cross_entropy", "train.loss={name: cross_entropy}"):
            with pytest.raises(Mistakes, match="has no meaning"):
                load(file, [text])
    elif base == "strong":
        file.write_text(f"{head}augment: {{mixup: 0.4}}\n")
        assert any("augment.mixup" in line for line in mistakes_of(file))


def test_a_target_that_is_set_by_hand_changes_the_bases_loss_too(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(f"base: {ROOT}/experiments/base/fast.yaml\ncompetition: {{source: digits}}\n")
    settings, _ = load(file, ["competition.target=regression", "competition.metric=mae"])
    assert settings.train.loss.name == "mse"
    assert load(file)[0].train.loss.name == "cross_entropy"
    changes = differences(file, ["competition.target=regression", "competition.metric=mae"], {"train.lr": 0.01})
    tuned = tmp_path / "tuned.yaml"
    tuned.write_text(yaml.safe_dump({"base": "own.yaml", **changes}))
    assert load(tuned)[0].train.loss.name == "mse" and load(tuned)[0].train.lr == 0.01


LAUGHS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        LAUGHS.replace("{", "[").replace("}", "]"),
        "z: " + "[" * 3000 + "]" * 3000,
        "z: " + "{a: " * 3000 + "1" + "}" * 3000,
        "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{k: *a{i - 1}}}\n" for i in range(1, 2000)),
        "z: &a {k: *a}",
        "z: &a [*a]",
    ],
    ids=[
        "a billion laughs",
        "of lists",
        "deep lists",
        "deep mappings",
        "a chain of aliases",
        "in itself",
        "a list too",
    ],
)
def test_yaml_that_grows_or_never_ends_is_refused_in_a_line(written, text):
    started = time.process_time()
    with pytest.raises(Mistakes) as error:
        load(written(GOOD + text))
    told = str(error.value)
    assert "more than 50 levels or 100,000 values" in told and "recursion" not in told and len(told) < 1000
    assert time.process_time() - started < 10


def test_an_alias_is_what_it_names(written):
    path = written(GOOD + "train: {epochs: &n 3, batch_size: *n}")
    assert load(path)[0].train.batch_size == 3


def test_thousands_of_unknown_keys_are_counted_in_seconds(written):
    started = time.process_time()
    with pytest.raises(Mistakes) as error:
        load(written(GOOD + "".join(f"key{i}: 1\n" for i in range(4000))))
    assert "more of this kind (unknown keys)" in str(error.value) and time.process_time() - started < 20
    with pytest.raises(Mistakes):
        load(written(GOOD), [f"{'.'.join('a' * 3000)}=1", f"train.lr={'[' * 3000}"])


def test_settings_that_were_removed_say_why_and_where(written):
    text = GOOD + "\neda:\n  near_bits: 6\n"
    lines = mistakes_of(written(text), "eda.near_correlation=0.98")
    for key, place in (("eda.near_bits", ".yaml:"), ("eda.near_correlation", "SET")):
        [line] = [line for line in lines if line.startswith(key)]
        assert place in line and "stand out from everything else" in line and "delete the line" in line

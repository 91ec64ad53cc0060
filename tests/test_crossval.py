"""Cross-validation: each row predicted by the one model that did not see it, through the one prediction path."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from pipeline.augment import image_keys
from pipeline.config.data import Preprocessing
from pipeline.config.mistakes import Mistakes
from pipeline.config.settings import Experiment
from pipeline.crossval import cross_validate, refuse_others
from pipeline.metrics import score
from pipeline.model import checkpoint_info, load_checkpoint
from pipeline.precision import Precision
from pipeline.predict import batch_size_for, predict
from pipeline.stages.training import _same_threads
from pipeline.task import Task
from pipeline.train import TrainingData

SPEC = Preprocessing(mode="L", px=32, crop=1.0, interpolation="bicubic", mean=(0.5,), std=(0.5,))
IDENTITY = {"settings": "s", "folds": "f", "images": "i"}
SETTINGS = Experiment.model_validate(
    {
        "competition": {"source": "digits"},
        "model": {"name": "test_resnet"},
        "folds": {"k": 3},
        "train": {"epochs": 2, "batch_size": 8},
    }
)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    rng = np.random.default_rng(0)
    targets = np.arange(30) % 3
    brightness = (targets * 80)[:, None, None, None]
    ids = np.array([f"x{i:02d}" for i in range(30)])[::-1].copy()  # not the order of the folds table
    images = torch.from_numpy((brightness + rng.integers(0, 60, (30, 32, 32, 1))).astype(np.uint8))
    return TrainingData(
        images=images,
        pixels=lambda row: images[row].numpy(),
        targets=torch.from_numpy(targets),
        train_targets=torch.from_numpy(targets),
        image_ids=ids,
        keys=image_keys(list(ids)),
        task=Task("class", "softmax", ("a", "b", "c")),
        metric="macro_f1",
        preprocessing=SPEC,
    )


@pytest.fixture(scope="module")
def folds(data) -> pd.DataFrame:
    rows = [{"image_id": i, "fold": n // 3 % 3, "label": "?", "group": ""} for n, i in enumerate(data.image_ids)]
    return pd.DataFrame(rows).sort_values("image_id", ignore_index=True)


@pytest.fixture(scope="module")
def finished(data, folds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    return cross_validate(data, folds, SETTINGS, Precision(), IDENTITY, "code", folder, lambda _: None), folder


def test_the_out_of_fold_table_has_the_contracts_columns_and_the_tables_order(finished, data):
    result, folder = finished
    oof = pd.read_parquet(folder / "oof.parquet")
    assert list(oof.columns) == ["image_id", "fold", "target", "p_0", "p_1", "p_2"]
    assert list(oof["image_id"]) == list(data.image_ids) and list(oof["target"]) == data.targets.tolist()
    assert np.allclose(oof.filter(like="p_").sum(axis=1), 1, atol=1e-5)
    assert result.score == score("macro_f1", data.targets.numpy(), oof.filter(like="p_").to_numpy())
    assert result.interval.low <= result.score <= result.interval.high


def test_each_row_is_predicted_by_the_model_that_did_not_see_it_and_by_the_one_path(finished, data, folds):
    result, _ = finished
    fold_of = folds.set_index("image_id")["fold"]
    for fold, path in enumerate(result.checkpoints):
        model, info = load_checkpoint(path, torch.device("cpu"))
        assert info.fold == fold and info.hashes.items() >= IDENTITY.items() and info.task == data.task
        valid = np.flatnonzero(fold_of[data.image_ids].to_numpy() == fold)
        probs = predict(model, info.task, data.images[valid], info.preprocessing, torch.device("cpu"))
        assert np.array_equal(result.oof.filter(like="p_").to_numpy()[valid], probs)  # to the bit
        assert (result.oof["fold"].to_numpy()[valid] == fold).all()


def test_finished_folds_are_not_trained_again_and_lost_ones_give_the_same(finished, data, folds):
    result, folder = finished
    (folder / "fold-1.safetensors").unlink()
    trained = []
    again = cross_validate(
        data, folds, SETTINGS, Precision(), IDENTITY, "code", folder, lambda record: trained.append(record.fold)
    )
    assert set(trained) == {1}
    pd.testing.assert_frame_equal(again.oof, result.oof)


@pytest.mark.parametrize("name", ["fold-1.safetensors", "fold-1.json"])
def test_a_finished_fold_that_was_changed_is_trained_again_with_a_line(finished, data, folds, name, capsys):
    result, folder = finished
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    trained = []
    again = cross_validate(
        data, folds, SETTINGS, Precision(), IDENTITY, "code", folder, lambda record: trained.append(record.fold)
    )
    assert set(trained) == {1} and f"{name} is not as it was written" in capsys.readouterr().err
    assert (folder / "fold-1.safetensors").read_bytes() == whole or name.endswith(".json")
    pd.testing.assert_frame_equal(again.oof, result.oof)


@pytest.mark.parametrize("name", ["settings", "folds", "images"])
def test_a_checkpoint_of_another_training_is_refused_by_name(finished, data, folds, name):
    _, folder = finished
    with pytest.raises(Mistakes, match=f"fold-0.safetensors.*other {name}"):
        cross_validate(data, folds, SETTINGS, Precision(), {**IDENTITY, name: "other"}, "code", folder, lambda _: None)


def test_nothing_is_pickled_in_what_leaves_the_folder(finished):
    _, folder = finished
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".parquet", ".json", ".sha256"}
    with safe_open(folder / "fold-0.safetensors", "pt") as file:
        assert "podium" in file.metadata()


def test_batch_sizes_of_prediction_agree_to_float_tolerance(finished, data, monkeypatch):
    model, info = load_checkpoint(finished[0].checkpoints[0], torch.device("cpu"))
    outputs = []
    for size in (256, 7):
        monkeypatch.setattr("pipeline.predict.batch_size_for", lambda px, device, size=size: size)
        outputs.append(predict(model, info.task, data.images, info.preprocessing, torch.device("cpu")))
    assert np.abs(outputs[0] - outputs[1]).max() < 1e-5


def test_batches_on_a_gpu_are_larger_for_smaller_images_and_no_larger_on_a_cpu():
    gpu = torch.device("cuda")  # named, not used
    sizes = [batch_size_for(px, gpu) for px in (32, 64, 112, 224, 448, 8192)]
    assert sizes == [4096, 2048, 1024, 256, 64, 1]
    assert all(n * px**2 <= 256 * 224**2 or n == 1 for n, px in zip(sizes, (32, 64, 112, 224, 448, 8192), strict=True))
    assert {batch_size_for(px, torch.device("cpu")) for px in (32, 448)} == {256}


def test_a_gpu_that_is_not_there_is_told(data, folds, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # whatever this machine has: cuda:1 is one too many
    settings = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"device": "cuda:1"})})
    with pytest.raises(Mistakes, match=r"train\.device.*cuda:1"):
        cross_validate(data, folds, settings, Precision(), IDENTITY, "code", tmp_path, lambda _: None)


def test_seeds_are_models_of_their_own_and_each_row_is_their_mean(data, folds, tmp_path):
    settings = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"seeds": (3, 4)})})
    both = cross_validate(data, folds, settings, Precision(), IDENTITY, "code", tmp_path / "both", lambda _: None)
    assert [path.stem for path in both.checkpoints] == [f"fold-{k}-seed-{s}" for s in (3, 4) for k in range(3)]
    singles = []
    for seed in (3, 4):
        one = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"seeds": (seed,)})})
        folder = tmp_path / f"{seed}"
        singles.append(cross_validate(data, folds, one, Precision(), IDENTITY, "code", folder, lambda _: None))
    mean = (singles[0].oof.filter(like="p_") + singles[1].oof.filter(like="p_")) / 2
    assert np.allclose(both.oof.filter(like="p_"), mean, atol=1e-7)
    assert both.fold_scores == singles[0].fold_scores + singles[1].fold_scores


@pytest.mark.parametrize("select", ["best", "ema", "swa"])
def test_out_of_fold_outputs_are_those_of_the_kept_weights_to_the_bit(data, folds, tmp_path, select):
    train = SETTINGS.train.model_copy(update={"select": select, "epochs": 4})
    settings = SETTINGS.model_copy(update={"train": train})
    result = cross_validate(data, folds, settings, Precision(), IDENTITY, "code", tmp_path, lambda _: None)
    fold_of = folds.set_index("image_id")["fold"]
    for fold, path in enumerate(result.checkpoints):
        model, info = load_checkpoint(path, torch.device("cpu"))
        valid = np.flatnonzero(fold_of[data.image_ids].to_numpy() == fold)
        of_fold = predict(model, info.task, data.images[valid], info.preprocessing, torch.device("cpu"))
        assert np.array_equal(result.oof.filter(like="p_").to_numpy()[valid], of_fold)
    assert (result.optimism is None) == (select != "best")
    assert not list(tmp_path.glob("*.state*"))  # the budget: what is left is one checkpoint a model


def test_a_run_in_another_precision_is_refused(finished, data, folds):
    _, folder = finished
    with pytest.raises(Mistakes, match=r"fold-0\.safetensors.*other precision"):
        cross_validate(data, folds, SETTINGS, Precision("bf16"), IDENTITY, "code", folder, lambda _: None)


def test_the_number_of_threads_is_noted_and_another_number_is_refused(data, folds, tmp_path):
    def crossed(threads):
        train = SETTINGS.train.model_copy(update={"threads": threads})
        settings = SETTINGS.model_copy(update={"train": train})
        assert settings.flat() == SETTINGS.flat()  # receipts of finished work hold, whatever the machine
        return cross_validate(data, folds, settings, Precision(), IDENTITY, "code", tmp_path, lambda _: None)

    try:
        path = crossed(2).checkpoints[0]
        assert checkpoint_info(path).hashes == IDENTITY | {"precision": str(Precision()), "train.threads": "2"}
        assert torch.get_num_threads() == 2
        with pytest.raises(Mistakes, match=r"other train\.threads \(2, not 1\)"):
            crossed(1)
        crossed(2)
    finally:
        torch.set_num_threads(1)
    info = checkpoint_info(path)
    del info.hashes["train.threads"]  # as a version before this one left it
    refuse_others(path, info, IDENTITY | {"precision": str(Precision()), "train.threads": "1"}, 0, 0)


def test_a_training_in_progress_says_with_how_many_threads_it_goes_on(tmp_path):
    folder = tmp_path / "train-1234"
    folder.mkdir()
    assert _same_threads(4, folder) == _same_threads(4, folder) == 4
    with pytest.raises(Mistakes, match=r"began with 4 threads .* go on with 2.*train\.threads=4"):
        _same_threads(2, folder)

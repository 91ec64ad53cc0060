"""A cross-validation's models as one MLflow model, which answers anywhere (`served_model`).

In: checkpoints and the words of their answers. Out: a folder, which `registry` takes; fetched again, and served.
Nothing is inferred by MLflow (30 s a call) and nothing is pickled. All functions raise what MLflow raises.
"""

import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version as installed
from pathlib import Path

import cv2
import mlflow.artifacts
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema

from pipeline.config.settings import ROOT
from pipeline.images.store import Side
from pipeline.model import checkpoint_info
from pipeline.receipts import sha256

with warnings.catch_warnings():  # of MLflow 3.17 about type hints of its own
    warnings.filterwarnings("ignore", ".*Any type hint", UserWarning)
    import mlflow.pyfunc

for chatty in ("mlflow.pyfunc", "mlflow.utils.environment"):  # about the example, and about a pip that uv has not
    logging.getLogger(chatty).setLevel(logging.ERROR)
EXAMPLE_PX = 128  # side of the example picture
# what answering imports; a test blocks everything else
REQUIRED = ("mlflow", "numpy", "opencv-python-headless", "pandas", "pillow", "pydantic", "safetensors", "scipy",
            "timm", "torch", "torchvision")  # fmt: skip


def save_package(
    folder: Path,
    checkpoints: Sequence[Path],
    label_texts: Sequence[str],
    separator: str,
    store_side: Side,
) -> Path:
    """An MLflow model in `folder`, which is made anew: checkpoints, our code, pinned requirements, an example.

    checkpoints: in the order of the folds. label_texts: how a submission writes each class. store_side: of the image
    store they were trained from. Raises `Mistakes` or MlflowException. About a second.
    """
    kind = checkpoint_info(checkpoints[0]).task.kind
    config = {
        "checkpoints": [path.stem for path in checkpoints],
        "sha256": [sha256(path) for path in checkpoints],
        "label_texts": list(label_texts),
        "separator": separator,
        "store_side": store_side,
        "device": "auto",  # mlflow.pyfunc.load_model(..., model_config={"device": "cpu"}) chooses
    }
    shutil.rmtree(folder, ignore_errors=True)
    mlflow.pyfunc.save_model(
        path=str(folder),
        python_model=str(Path(__file__).with_name("served_model.py")),
        artifacts={path.stem: str(path.absolute()) for path in checkpoints},
        code_paths=[str(ROOT / "pipeline")],
        model_config=config,
        signature=_signature(kind, label_texts),
        input_example=pd.DataFrame({"image": [example()]}),
        pip_requirements=[f"{name}=={installed(name).split('+')[0]}" for name in REQUIRED],
    )
    _forget_places(folder)
    return folder


def example() -> bytes:
    """A picture to ask with, as a JPEG: drawn, since the organisers' photos are nobody's to give away."""
    across, down = np.meshgrid(np.linspace(0, 255, EXAMPLE_PX), np.linspace(0, 255, EXAMPLE_PX))
    pixels = np.stack([across, down, 255 - across], axis=2).astype(np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def download(client: MlflowClient, name: str, number: str, folder: Path) -> Path:
    """A version's package, below `folder`."""
    # not by `models:/NAME/NUMBER`, which MLflow 3.17 looks up in the process's own store whatever the client's is
    source = str(client.get_model_version(name, number).source)
    if logged := re.fullmatch(r"models:/(m-\w+)", source):  # as MLflow itself registers
        source = client.get_logged_model(logged[1]).artifact_location
    place = mlflow.artifacts.download_artifacts(source, dst_path=str(folder), tracking_uri=client.tracking_uri)
    return Path(place)


def serving(package: Path, host: str, port: int) -> tuple[list[str], dict[str, str]]:
    """(command, environment) of a server over a package, `scoring`, in one process of this Python."""
    environment = dict(os.environ)
    environment["PODIUM_SERVED"] = "1"  # paths are refused, see `served_model`
    environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"  # whatever is registered under the name
    # -P: the package's code, not what lies where this is called
    script = str(Path(__file__).with_name("scoring.py"))
    return [sys.executable, "-P", script, str(package), host, str(port)], environment


def _forget_places(folder: Path) -> None:
    """Where the package was made is nobody's business, and nothing reads it again."""
    described = Model.load(str(folder))
    flavor = described.flavors[mlflow.pyfunc.FLAVOR_NAME]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    described.save(str(folder / "MLmodel"))


def _signature(kind: str, label_texts: Sequence[str]) -> ModelSignature:
    asked = Schema([ColSpec("binary", "image", required=False), ColSpec("string", "path", required=False)])
    if kind == "regression":
        return ModelSignature(asked, Schema([ColSpec("double", "class")]))
    probabilities = [ColSpec("double", f"p_{name}") for name in label_texts]
    return ModelSignature(asked, Schema([ColSpec("string", "class"), *probabilities]))

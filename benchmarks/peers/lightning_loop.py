"""The same work as plain_loop.py with a Lightning Trainer, one for each fold; data, model and measuring are its.

    lightning_loop.py FOLDER --model test_resnet --px 64 --augment light [--folds 5] [--epochs 2] [--batch-size 32]
                      [--workers 2] [--threads 2]

What costs time and is not asked for is off: logger, checkpoints, progress bar, summary, the trial validation before
training. Versions 2.6.2 and 2.6.3 of `lightning` were malicious: never those.
"""

import argparse
import logging
import warnings

import lightning as L
import torch
from plain_loop import Data, build_model, build_optimizer, loaders, macro_f1, measure, parse
from torch.nn import functional as F

REFUSED = ("2.6.2", "2.6.3")


class Classifier(L.LightningModule):
    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model
        self.truth: list[torch.Tensor] = []
        self.classes: list[torch.Tensor] = []
        self.n_seen, self.score = 0, 0.0

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, targets = batch
        self.n_seen += len(images)
        return F.cross_entropy(self.model(images), targets)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        images, targets = batch
        self.classes.append(self.model(images).argmax(dim=1))
        self.truth.append(targets)

    def on_validation_epoch_end(self) -> None:
        self.score = macro_f1(self.truth, self.classes)
        self.truth.clear()
        self.classes.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.model)


def train_fold(data: Data, fold: int, args: argparse.Namespace) -> tuple[int, float]:
    """(training images seen, macro F1 after the last epoch)"""
    torch.manual_seed(fold)
    train, valid = loaders(data, fold, args)
    module = Classifier(build_model(args, data.n_classes))
    trainer = L.Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, train, valid)
    return module.n_seen, module.score


if __name__ == "__main__":
    assert L.__version__ not in REFUSED, "this version of lightning was malicious"
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    measure(train_fold, parse())

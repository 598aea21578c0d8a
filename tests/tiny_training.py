"""Trainings of a tenth of a second."""

import copy
from types import SimpleNamespace

import numpy as np
import torch
from students import ID2LABEL
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from g4i_hf import AlignedImageClassification
from g4i_hf.training import AlignmentArguments, AlignmentTrainer

TEXT_DIM = 12
GENTLE = {"max_grad_norm": 0.0, "optim": "sgd", "sgd_momentum": 0.0, "learning_rate": 0.5}  # step = 0.5 x gradient
ONE_STEP = GENTLE | {"max_steps": 1, "train_sampling_strategy": "sequential", "lr_scheduler_type": "constant"}


def rows(n: int = 8, dtype: torch.dtype = torch.float32, classes: int = len(ID2LABEL)) -> list[dict]:
    """Random images of 48 x 48 pixels, each with a caption of its own; labels in turn."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(n, 3, 48, 48, generator=generator).to(dtype)
    embeds = nn.functional.normalize(torch.randn(n, TEXT_DIM, generator=generator), dim=1).numpy()
    keys = ("image_key", "caption_keys")
    return [
        {"pixel_values": pixels[row], "labels": row % classes, "text_embeds": embeds[row], "caption_weight": 1.0}
        | dict.fromkeys(keys, row)
        for row in range(n)
    ]


class Rows(list):
    """Rows as a dataset that knows its labels and the mean of its texts."""

    def __init__(self, items: list[dict]):
        super().__init__(items)
        self.labels = np.array([row["labels"] for row in self])
        self.embeds = np.stack([row["text_embeds"] for row in self]).astype(np.float64)
        self.texts = SimpleNamespace(mean=lambda: self.embeds.mean(0))


def arguments(folder, kind: type = AlignmentArguments, **options) -> TrainingArguments:
    common = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no", "logging_steps": 1}
    return kind(str(folder), **common | options)


def train(folder, model: AlignedImageClassification, data: list[dict], callbacks=None, collator=None, **options):
    args = arguments(folder, **options)
    trainer = AlignmentTrainer(model, args, train_dataset=data, callbacks=callbacks, data_collator=collator)
    trainer.train()
    return trainer


def first_log(trainer: Trainer) -> dict[str, float]:
    return trainer.state.log_history[0]


def change(before: nn.Module, after: nn.Module) -> torch.Tensor:
    """How far all parameters moved, in one vector."""
    moved = dict(after.named_parameters())  # a learned temperature may have come in
    return torch.cat([(moved[name] - old).detach().flatten() for name, old in before.named_parameters()])


def one_step(folder, model: AlignedImageClassification, data: list[dict], **options) -> tuple[Trainer, torch.Tensor]:
    """Trains a copy of the model; its change is the negative gradient, times the learning rate."""
    trainer = train(folder, copy.deepcopy(model), data, **ONE_STEP | options)
    return trainer, change(model, trainer.model)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts have the same bits."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


class StopAfter(TrainerCallback):
    """Ends training after a step, as an interruption does."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


class Spoil(TrainerCallback):
    """Fills the first parameter of a part of the model with NaN before a step."""

    def __init__(self, step: int, part: str):
        self.step, self.part = step, part

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            with torch.no_grad():
                next(model.get_submodule(self.part).parameters()).fill_(torch.nan)

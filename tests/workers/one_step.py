"""
Trains a tiny float64 model by several recipes and saves what came of each; test_invariance.py compares process counts.

    accelerate launch --num_processes W tests/workers/one_step.py RESULT.pt
"""

import faulthandler
import math
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.nn.utils import parameters_to_vector
from transformers import ViTConfig

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "recipes" / "text_teacher")]
import text_teacher  # noqa: F401
from tiny_training import Spoil

from g4i_hf import AlignedImageClassification
from g4i_hf.cli import end_processes
from g4i_hf.data.dataset import AlignmentCollator
from g4i_hf.losses.gather import rank
from g4i_hf.losses.objectives import OBJECTIVES
from g4i_hf.training import AlignmentArguments, AlignmentTrainer
from g4i_hf.training.callbacks import NonFiniteLoss

HANGS_AFTER = 180  # seconds
NUM_LABELS, TEXT_DIM, WEIGHT = 4, 6, 0.7
STEP = {"rows": 8, "global_batch": 8, "learning_rate": 1.0}
EPOCHS = [(10, 16), (9, 8)]  # rows, global batch: every last batch is uneven or leaves processes empty


def scenarios() -> dict[str, dict[str, Any]]:
    found = {"baseline": STEP | {"align_weight": 0.0}}
    for objective in OBJECTIVES:
        loss = {"align_loss": objective}
        found[f"mixed, several captions {objective}"] = STEP | loss | {"mixed": True, "captions": 3}
        found[f"class mask {objective}"] = STEP | loss | {"align_mask": "class", "align_temperature": 0.5}
    for objective in ("clip", "cosine"):
        loss = {"align_loss": objective}
        found[f"step {objective}"] = STEP | loss
        found[f"official {objective}"] = STEP | loss | {"align_gradient": "official"}
    found["own objective"] = STEP | {"align_loss": "text_teacher"}
    found["own objective, mixed"] = STEP | {"align_loss": "text_teacher", "mixed": True, "captions": 2}
    found["bce, class weights"] = STEP | {"classification_loss": "bce", "class_weights": "[1, 2, 0.5, 0.1]"}
    soft = STEP | {"soft_labels": True, "soft_label_weight": 0.5}
    found["soft labels"] = soft
    found["soft labels, mixed"] = soft | {"mixed": True, "captions": 2}
    found["soft labels alone"] = soft | {"align_weight": 0.0}
    found["spoiled"] = STEP | {"align_loss": "cosine", "num_train_epochs": 3, "spoiled": True}
    for rows, global_batch in EPOCHS:
        name = f"epoch of {rows} by {global_batch}"
        epoch = {"rows": rows, "global_batch": global_batch, "learning_rate": 0.1, "train_sampling_strategy": "random"}
        for objective in OBJECTIVES if global_batch > rows else ["clip"]:
            found[f"{name}, {objective}"] = epoch | {"align_loss": objective}
        found[f"{name}, soft labels"] = epoch | {"soft_labels": True}
        stepped = {"lr_scheduler_type": "cosine", "num_train_epochs": 3, "align_weight": 0.0}
        found[f"{name}, schedule, frozen backbone"] = epoch | stepped | {"freeze_backbone": True}
        found[f"{name}, recomputed"] = epoch | {"activation_checkpointing": True}
        found[f"{name}, repeated"] = epoch | {"num_train_epochs": 2, "repeated_augmentation": 3}
    return found


class Rows(torch.utils.data.Dataset):
    """Random rows with every irregularity of real ones."""

    def __init__(self, num_rows: int, captions: int = 1, soft_labels: bool = False):
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(num_rows, 3, 8, 8, generator=generator, dtype=torch.float64)
        embeds = torch.randn(num_rows, captions, TEXT_DIM, generator=generator)
        self.embeds = torch.nn.functional.normalize(embeds, dim=2).numpy()
        self.caption_keys = np.arange(num_rows * captions).reshape(num_rows, captions)
        if num_rows > 6:
            self.caption_keys[6, 0] = self.caption_keys[3, 0]  # row 6 has a caption of row 3
            self.embeds[6, 0] = self.embeds[3, 0]
        soft = torch.randn(num_rows, NUM_LABELS, generator=generator, dtype=torch.float64).softmax(1)
        soft[1] = 0  # a row without
        self.soft_labels = soft.numpy() if soft_labels else None
        self.texts = SimpleNamespace(mean=lambda: self.embeds.mean((0, 1)))

    def __len__(self) -> int:
        return len(self.pixels)

    def get_draws(self, draws) -> list[dict[str, Any]]:
        return [self._item(draw.row) for draw in draws]

    def _item(self, row: int) -> dict[str, Any]:
        captions = self.embeds.shape[1]
        soft = {} if self.soft_labels is None else {"soft_labels": self.soft_labels[row]}
        return soft | {
            "pixel_values": self.pixels[row],
            "labels": -100 if row == 2 else row % NUM_LABELS,
            "image_key": {5: 1}.get(row, row),  # row 5 has the image of row 1
            "caption_keys": self.caption_keys[row],
            "text_embeds": self.embeds[row],
            "caption_weight": np.full(captions, {0: 0.0, 4: 0.25}.get(row, 1.0) / captions),
        }


def mix_neighbours(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Neighbours in the global batch are partners, so that the mixing is the same however the batch is shared."""
    batch = AlignmentCollator()(items)
    batch["mix_partner"] = torch.arange(len(items)) ^ 1
    batch["mix_share"] = torch.where(batch["caption_keys"][:, 0] % 2 == 0, 0.625, 0.75)
    share = batch["mix_share"].double().view(-1, 1, 1, 1)
    x = batch["pixel_values"]
    batch["pixel_values"] = share * x + (1 - share) * x[batch["mix_partner"]]
    return batch


def initial_model() -> AlignedImageClassification:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(**size, image_size=8, patch_size=4, initializer_range=0.3)
    id2label = {i: str(i) for i in range(NUM_LABELS)}
    return AlignedImageClassification.from_student(config, id2label=id2label, text_embed_dim=TEXT_DIM).double()


def parameters_of(model: AlignedImageClassification, temperature: float) -> dict[str, torch.Tensor]:
    """Those of each part in one vector; a learned temperature and bias begin at that of the options and at -10."""
    scale = getattr(model, "logit_scale", torch.tensor(-math.log(temperature), dtype=torch.float64))
    bias = getattr(model, "logit_bias", torch.tensor(-10.0, dtype=torch.float64))
    student, projector = (parameters_to_vector(part.parameters()) for part in (model.student, model.projector))
    return {"student": student, "projector": projector, "logits": torch.stack([scale, bias])}


def measure(
    folder: str,
    rows: int,
    global_batch: int,
    mixed: bool = False,
    captions: int = 1,
    soft_labels: bool = False,
    spoiled: bool = False,
    **options,
) -> dict[str, Any]:
    common = {"use_cpu": True, "optim": "sgd", "sgd_momentum": 0.0, "max_grad_norm": 0.0, "logging_steps": 1}
    common |= {
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
    }
    common |= {"align_weight": WEIGHT, "num_train_epochs": 1, "lr_scheduler_type": "constant"}
    args = AlignmentArguments(folder, **common | options)
    args.per_device_train_batch_size = global_batch // args.world_size
    model, dataset = initial_model(), Rows(rows, captions, soft_labels)
    before = parameters_of(model, args.align_temperature)
    spoils = [Spoil(2, "projector")] if spoiled and rank() == args.world_size - 1 else None
    collator = mix_neighbours if mixed else None
    trainer = AlignmentTrainer(model, args, dataset, data_collator=collator, callbacks=spoils)
    error = None
    try:
        trainer.train()
    except NonFiniteLoss as raised:
        error = str(raised)
    after = parameters_of(model, args.align_temperature)
    changes = {part: (after[part] - before[part]).detach() for part in before}
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    wrapper = trainer.model_wrapped  # left to DDP, a parameter that takes no part would be an error
    assert args.world_size == 1 or wrapper.find_unused_parameters is False, type(wrapper)
    found = {"change": changes, "logs": logs, "errors": gather_object([error])}
    return found | {"world_size": args.world_size, "aligns": args.aligns}


def main() -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(HANGS_AFTER, exit=True)
    with tempfile.TemporaryDirectory() as folder:
        results = {name: measure(folder, **options) for name, options in scenarios().items()}
    if rank() == 0:
        torch.save(results, sys.argv[1])
    end_processes()


if __name__ == "__main__":
    main()

"""
Trains small students under DDP; test_training_modes.py looks at the wrapper and at the course of the learning rate.

    accelerate launch --multi_gpu --num_processes 2 tests/workers/two_processes.py RESULT.pt
"""

import faulthandler
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from ending import end_and_look
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parent.parent))
from students import aligned_model, lora_model

from g4i_hf.losses.gather import rank
from g4i_hf.training import AlignmentArguments, AlignmentTrainer

RATE, STEPS = 0.01, 6
RUNS = {
    "dinov2": {},
    "resnet": {"freeze_backbone": True},
    "timm-resnet": {"activation_checkpointing": True, "layer_decay": 0.7},
    "timm-convnext": {"lora": True},
}


class Rates(TrainerCallback):
    def __init__(self):
        self.course: list[float] = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.course.append(optimizer.param_groups[0]["lr"])


def row(i: int) -> dict[str, Any]:
    embeds = torch.nn.functional.normalize(torch.randn(12, generator=torch.Generator().manual_seed(i)), dim=0).numpy()
    keys = {"labels": i % 3, "image_key": i, "caption_keys": i, "caption_weight": 1.0}
    return keys | {"pixel_values": torch.randn(3, 48, 48), "text_embeds": embeds}


def measure(folder: str, name: str, lora: bool = False, **options) -> dict[str, Any]:
    common = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    schedule = {"lr_scheduler_type": "timm:cosine", "learning_rate": RATE, "num_train_epochs": 3}
    args = AlignmentArguments(folder, per_device_train_batch_size=2, **common, **schedule, **options)
    rates = Rates()
    torch.manual_seed(0)
    model = lora_model(name) if lora else aligned_model(name, 12)
    trainer = AlignmentTrainer(model, args, [row(i) for i in range(8)], callbacks=[rates])
    trainer.train()
    wrapper = trainer.model_wrapped
    return {
        "wrapper": type(wrapper).__name__,
        "find_unused_parameters": wrapper.find_unused_parameters,
        "course": rates.course,
        "expected": [RATE / 2 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS)],
        "steps": trainer.state.global_step,
    }


def main() -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(90, exit=True)
    with tempfile.TemporaryDirectory() as folder:
        results = {name: measure(folder, name, **options) for name, options in RUNS.items()}
    if rank() == 0:
        torch.save(results, sys.argv[1])
    end_and_look()


if __name__ == "__main__":
    main()

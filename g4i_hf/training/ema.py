"""Moving average of the student's weights."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3
from torch import nn
from transformers import TrainerCallback

EMA_FILE = "ema.safetensors"


class EmaCallback(TrainerCallback):
    """
    Averages the student after every optimizer step, by timm's ModelEmaV3. [`AlignmentTrainer`] writes the average into
    each checkpoint and reads it back on resuming.

    Args:
        student: what is averaged, parameters and buffers.
        decay: of the average; its first value is a copy of the student.
    """

    def __init__(self, student: nn.Module, decay: float):
        self.student = student
        self.ema = ModelEmaV3(student, decay=decay)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.ema.update(self.student, step=state.global_step)

    @property
    def averaged(self) -> nn.Module:
        return self.ema.module

    def save(self, folder: str | Path) -> None:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.averaged.state_dict().items()}
        save_file(tensors, Path(folder) / EMA_FILE, metadata={"format": "pt"})

    def load(self, folder: str | Path) -> None:
        """
        Raises:
            FileNotFoundError: when the checkpoint holds no average.
        """
        path = Path(folder) / EMA_FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} holds no {EMA_FILE}: it was written without ema_decay. Resume without it, or start afresh."
            )
        with torch.no_grad():
            self.averaged.load_state_dict(load_file(path))

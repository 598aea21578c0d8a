"""Whether an image shows none of the classes: a score that is linear in the features, in a file beside the weights."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..names import NONE_FILE, loading


@dataclass
class NoneOfThese:
    """An image shows none of the classes where `features @ weight + bias` exceeds the `threshold`."""

    weight: torch.Tensor  # (F,), for the input of the last layer
    bias: torch.Tensor  # ()
    threshold: torch.Tensor  # ()

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """(n, F) -> (n,)"""
        return (features.float() * self.weight.to(features.device)).sum(-1) + self.bias.to(features.device)

    def finds(self, features: torch.Tensor) -> list[bool]:
        """(n, F) -> whether each image shows none of the classes."""
        return (self.scores(features).cpu() > self.threshold).tolist()

    def save(self, folder: str | Path) -> None:
        save_file(vars(self), Path(folder) / NONE_FILE)

    @classmethod
    def load(cls, file: str | Path, num_features: int) -> "NoneOfThese":
        """Raises ValueError for another file than [`save`] writes for so many features."""
        with loading(f"{file}", " Release the classifier again, or remove the file."):
            tensors = load_file(file)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if shapes != {"weight": (num_features,), "bias": (), "threshold": ()}:
            what = f"{NONE_FILE} holds {shapes}, which is no score of {num_features:,} features"
            raise ValueError(f"{what}. Release the classifier again, or remove the file.")
        return cls(**tensors)

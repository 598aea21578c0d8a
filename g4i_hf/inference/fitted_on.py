"""What a classifier was fitted on, as numbers in a file beside its weights, to compare new images with."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel

from ..modeling.student import classifier_layers
from ..names import FITTED_ON_FILE, loading

REMEDY = "Release the classifier again, or remove the file."


@dataclass
class FittedOn:
    """
    Attributes:
        mean, axes: (F,) and (F, K), by which features become the values that are compared.
        values: (m, K) of a sample of the images, one a scene, and `classes`, (m, C) probabilities of their classes.
        predicted: (k, C) probabilities of images that the classifier has not learned, and `truth`, of their classes.
        counts: (C,) labels of each class.
        accuracy: the estimated accuracy and its interval, NaN where it is unknown.
        last_layer: digest of the last layer, as a file may lie beside another classifier.
    """

    mean: np.ndarray
    axes: np.ndarray
    values: np.ndarray
    classes: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray
    counts: np.ndarray
    accuracy: np.ndarray
    last_layer: np.ndarray

    def of(self, features: torch.Tensor) -> np.ndarray:
        """(n, F) -> (n, K)"""
        return (features.flatten(1).float().cpu().numpy() - self.mean) @ self.axes

    def save(self, folder: str | Path) -> None:
        half = {name: getattr(self, name).astype(np.float16) for name in ("values", "classes", "predicted", "truth")}
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in (vars(self) | half).items()}
        save_file(tensors, Path(folder) / FITTED_ON_FILE)

    @classmethod
    def load(cls, file: str | Path, student: PreTrainedModel) -> "FittedOn":
        """Raises ValueError for another file than [`save`] writes for this classifier."""
        with loading(f"{file}", f" {REMEDY}"):
            tensors = load_file(file)
        names = cls.__dataclass_fields__.keys()
        if tensors.keys() != names:
            raise ValueError(f"{FITTED_ON_FILE} holds {sorted(tensors)} in place of {sorted(names)}. {REMEDY}")
        if not np.array_equal(tensors["last_layer"], digest_of_last_layer(student)):
            raise ValueError(f"{FITTED_ON_FILE} is that of another classifier: its last layer differs. {REMEDY}")
        return cls(**tensors)


def digest_of_last_layer(student: PreTrainedModel) -> np.ndarray:
    """(16,) bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for tensor in classifier_layers(student)[0].state_dict().values():
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)

"""Architectures that a user has registered with timm or transformers, see docs/guides/training.md."""

import os
import sys
import tempfile
from collections.abc import Iterable
from difflib import get_close_matches

import timm
import torch
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, PreTrainedConfig, PreTrainedModel, TimmWrapperConfig
from transformers.integrations import is_deepspeed_zero3_enabled

from .processing import image_size_of

PAGE = "docs/guides/training.md"
HINT = f"If it is your own, import the module that registers it first ({PAGE})."


def own_module(config: PreTrainedConfig) -> str | None:
    """Name of the module that has registered a student's architecture; None for one of timm or transformers."""
    if isinstance(config, TimmWrapperConfig):
        check_is_known(config.architecture)
        module = timm.models.model_entrypoint(config.architecture).__module__
    else:
        classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), type(config))
        module = (classes[0] if isinstance(classes, tuple) else classes).__module__
    if module.split(".")[0] in ("timm", "transformers"):
        return None
    spec = getattr(sys.modules.get(module), "__spec__", None)  # has the name of what `python -m` started
    return spec.name if spec is not None else module


def check_is_known(architecture: str) -> None:
    if not timm.is_model(architecture):
        raise ValueError(f"timm {timm.__version__} knows no architecture {architecture!r}. {HINT}")


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'vit'?`, or nothing when none is near."""
    return "".join(f" Did you mean {near!r}?" for near in get_close_matches(name, known, n=1))


def check_own(model: PreTrainedModel, image_size: int | None) -> None:
    """
    Tries an aligned model of a user's own architecture before it is trained for hours: it must take images, and give
    the same logits after saving and loading. transformers loads into a model without memory, where what is neither a
    parameter nor a saved buffer is lost. Not under DeepSpeed's ZeRO-3, where no process has the whole model.

    Raises:
        ValueError: when it fails, or gives other logits after loading.
    """
    if is_deepspeed_zero3_enabled() or int(os.environ.get("RANK", 0)) > 0:  # only the first process may save
        return
    config = model.config.student_config
    size = image_size or image_size_of(config)
    name = f"student {getattr(config, 'architecture', config.model_type)!r}, of {own_module(config)},"
    was_training, place = model.training, model.device
    # Where it will be trained: some architectures have no kernels for the CPU
    where, devices = torch.device("cpu"), []
    if torch.accelerator.is_available():
        where, devices = torch.accelerator.current_accelerator(), [torch.accelerator.current_device_index()]
    kind = "cuda" if where.type == "cpu" else where.type
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(where)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), torch.random.fork_rng(devices, device_type=kind):
        try:
            before, again = (_outputs(model.to(where).eval(), pixels) for _ in range(2))
            model.save_pretrained(folder)
            after = _outputs(type(model).from_pretrained(folder).to(where).eval(), pixels)
        except Exception as error:  # of code that is not ours
            said = str(error).rstrip(".")
            raise ValueError(
                f"{name} cannot be used: with two images of {size} x {size} pixels, or when it was saved and loaded, "
                f"it fails with {type(error).__name__}: {said}. {PAGE} says what it has to do."
            ) from error
        finally:
            model.to(place).train(was_training)
    close = {"rtol": 1e-4, "atol": 1e-5, "equal_nan": True}
    if torch.allclose(before, again, **close) and not torch.allclose(before, after, **close):  # some draw at any time
        raise ValueError(
            f"{name} gives other logits after it was saved and loaded: it holds something that is neither a parameter "
            f"nor a saved buffer. Register buffers without persistent=False ({PAGE})."
        )


def _outputs(model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    output = model(pixels, output_image_embeds=True)
    return torch.cat([output.logits, output.image_embeds], dim=1)

"""Architectures that a user has registered with timm or transformers, see docs/own_architectures.md."""

import sys
import tempfile
from collections.abc import Iterable
from difflib import get_close_matches

import timm
import torch
import transformers
from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, PreTrainedConfig, PreTrainedModel, TimmWrapperConfig

PAGE = "docs/own_architectures.md"
HINT = f"If it is your own, import the module that registers it first ({PAGE})."


def own_module(config: PreTrainedConfig) -> str | None:
    """
    Where the architecture of a student comes from.

    Returns:
        Name of the module that has registered it; None for an architecture of timm or transformers.

    Raises:
        ValueError: when timm knows no such architecture.
    """
    if isinstance(config, TimmWrapperConfig):
        check_is_known(config.architecture)
        module = timm.models.model_entrypoint(config.architecture).__module__
    else:
        classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), type(config))
        module = (classes[0] if isinstance(classes, tuple) else classes).__module__
    if module.split(".")[0] in ("timm", "transformers"):
        return None
    spec = getattr(sys.modules.get(module), "__spec__", None)  # of what was started by `python -m` under its own name
    return spec.name if spec is not None else module


def check_is_known(architecture: str) -> None:
    """
    Raises:
        ValueError: when timm knows no such architecture.
    """
    if not timm.is_model(architecture):
        raise ValueError(f"timm {timm.__version__} knows no architecture {architecture!r}. {HINT}")


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'vit'?`, or nothing when none is near."""
    return "".join(f" Did you mean {near!r}?" for near in get_close_matches(name, known, n=1))


def unknown_name(name: str, error: Exception) -> str:
    """What is said of a student that is found nowhere."""
    near = nearest(name, [*timm.list_models(), *transformers.CONFIG_MAPPING])
    return (
        f"student {name!r} is no folder, no model of timm and no model type of transformers.{near} {HINT} As a "
        f"checkpoint on the Hub: {error}"
    )


def check_own(model: PreTrainedModel, image_size: int | None) -> None:
    """
    Tries an architecture of a user's own, before it is trained for hours: that it takes images, and is the same after
    it was saved and loaded. transformers loads into a model that was built without memory, where what is neither a
    parameter nor a saved buffer is lost.

    Args:
        model: the aligned model; left as it is.
        image_size: side of its images in pixels; 224 where it is not known.

    Raises:
        ValueError: when it fails, or gives other logits after loading.
    """
    config = model.config.student_config
    size = image_size or getattr(config, "image_size", 224)
    name = f"student {getattr(config, 'architecture', config.model_type)!r}, of {own_module(config)},"
    was_training = model.training
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), torch.random.fork_rng([]):
        try:
            before = model.eval()(pixels, output_image_embeds=True)
            model.save_pretrained(folder)
            after = type(model).from_pretrained(folder).eval()(pixels, output_image_embeds=True)
        except Exception as error:  # of code that is not ours
            raise ValueError(
                f"{name} cannot be used: with two images of {size} x {size} pixels, or when it was saved and loaded, "
                f"it fails with {type(error).__name__}: {error}. {PAGE} says what it has to do."
            ) from error
        finally:
            model.train(was_training)
    same = torch.allclose(before.logits, after.logits, 1e-4, 1e-5)
    if not same or not torch.allclose(before.image_embeds, after.image_embeds, 1e-4, 1e-5):
        raise ValueError(
            f"{name} gives other logits after it was saved and loaded: it holds something that is neither a parameter "
            f"nor a saved buffer. Register buffers without persistent=False ({PAGE})."
        )

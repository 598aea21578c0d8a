"""Builds students, and finds the layer whose input is the feature."""

import contextlib
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from .own_architecture import HINT, check_is_known, nearest, own_module

# What transformers' image classifiers call their last layers; two entries in a tuple for models with two heads.
CLASSIFIER_NAMES = (
    ("cls_classifier", "distillation_classifier"),
    ("classifier", "classifier_distill"),
    ("classifier",),
    ("head",),
    ("fc",),
)
# What an image processor needs; the rest of timm's pretrained_cfg is about the original weights
PRETRAINED_CFG_KEYS = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")


def student_config_from(
    name_or_config: str | PreTrainedConfig,
    student_args: dict[str, Any] | None = None,
    image_size: int | None = None,
    **hub_kwargs,
) -> PreTrainedConfig:
    """
    The configuration of a student.

    Args:
        name_or_config: a `PreTrainedConfig`; a folder or Hub id of a checkpoint; a timm name (`resnet18`); or a
            transformers model type (`vit`), which starts from its default configuration.
        student_args: for timm, keyword arguments of `timm.create_model`; else fields of the configuration.
        image_size: side of the input in pixels, which students with position embeddings are built for.

    Raises:
        ValueError: when `student_args` names the number of classes, which comes from the data.
    """
    student_args = dict(student_args or {})
    for name in ("num_classes", "num_labels", "id2label"):
        if name in student_args:
            raise ValueError(f"student_args names {name!r}: leave it out, the classes come from the data set.")
    if isinstance(name_or_config, PreTrainedConfig):
        config = type(name_or_config).from_dict(name_or_config.to_dict())
    elif Path(name_or_config).is_dir():
        try:
            config = AutoConfig.from_pretrained(name_or_config)
        except ValueError as error:  # a model type that was not registered
            raise ValueError(f"{error} {HINT}") from error
    elif timm.is_model(name_or_config):
        return _timm_config(name_or_config, student_args, image_size)
    elif name_or_config in CONFIG_MAPPING:
        config_class = CONFIG_MAPPING[name_or_config]
        with contextlib.suppress(TypeError):  # a user's own configuration may have fields without a default
            default = config_class()
            _check_fields(default, student_args)
            if image_size is not None and hasattr(default, "image_size"):
                student_args.setdefault("image_size", image_size)
        return config_class(**student_args)
    else:
        config = _hub_config(name_or_config, hub_kwargs)
    if isinstance(config, TimmWrapperConfig):
        check_is_known(config.architecture)
        config.model_args = {**(config.model_args or {}), **student_args} or None
        # The checkpoint's classes: written beside the student's own, they would be read back in their place
        for name in ("label_names", "label_descriptions"):
            vars(config).pop(name, None)
    else:
        _check_fields(config, student_args)
        for name, value in student_args.items():
            setattr(config, "_attn_implementation" if name == "attn_implementation" else name, value)
    return config


def is_on_hub(name: str) -> bool:
    """Whether a student's name can only be that of a checkpoint on the Hub."""
    return not (Path(name).is_dir() or timm.is_model(name) or name in CONFIG_MAPPING)


def nearest_student(name: str) -> str:
    """A hint: the most similar name of timm or transformers."""
    return nearest(name, [*timm.list_models(), *CONFIG_MAPPING])


def _hub_config(name: str, hub_kwargs: dict[str, Any]) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(name, **hub_kwargs)
    except OSError as error:
        if "/" in name:
            raise
        raise OSError(
            f"student {name!r} is no folder, no model of timm and no model type of transformers."
            f"{nearest_student(name)} {HINT} As a checkpoint on the Hub: {error}"
        ) from error


def _timm_config(name: str, student_args: dict[str, Any], image_size: int | None) -> TimmWrapperConfig:
    config = TimmWrapperConfig(architecture=name)
    known = timm.get_pretrained_cfg(name)  # None of a model that its user has registered without one
    is_fixed = image_size is not None and known is not None and known.fixed_input_size
    # A user's own would have its usual size from timm as a pair, any other from here as a number
    if is_fixed and (known.input_size[-1] != image_size or own_module(config) is not None):
        student_args.setdefault("img_size", image_size)
    config.model_args = student_args or None
    return config


def _check_fields(config: PreTrainedConfig, student_args: dict[str, Any]) -> None:
    """Raises ValueError for an unknown field: a configuration of transformers takes any name."""
    for name in student_args:
        if not hasattr(config, name) and name != "attn_implementation":
            near = nearest(name, sorted(config.to_dict()))
            raise ValueError(f"student_args names {name!r}, which {type(config).__name__} has no field for.{near}")


def new_student(config: PreTrainedConfig) -> PreTrainedModel:
    """Fresh weights; for timm by timm's initialisation, as transformers' wrapper draws from N(0, 0.02)."""
    if isinstance(config, TimmWrapperConfig):
        return _wrap(config, _timm_model(config.architecture, config, pretrained=False))
    if not config.architectures:
        # Where one configuration has two classes (DeiT), the Auto class chooses by this name
        classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
        config.architectures = [(classes[0] if isinstance(classes, tuple) else classes).__name__]
    return AutoModelForImageClassification.from_config(config)


def pretrained_student(name: str, config: PreTrainedConfig, **hub_kwargs) -> PreTrainedModel:
    """The weights of a checkpoint and a head of `config.num_labels` classes, new where the sizes differ."""
    if timm.is_model(name) and not Path(name).is_dir():
        timm_model = _timm_model(name, config, pretrained=True)
        pretrained_cfg = {k: v for k, v in timm_model.pretrained_cfg.items() if k in PRETRAINED_CFG_KEYS}
        config.pretrained_cfg = {**pretrained_cfg, **(getattr(config, "pretrained_cfg", None) or {})}
        return _wrap(config, timm_model)
    return AutoModelForImageClassification.from_pretrained(
        name, config=config, ignore_mismatched_sizes=True, **hub_kwargs
    )


def _timm_model(name: str, config: TimmWrapperConfig, pretrained: bool) -> nn.Module:
    check_is_known(name)
    args = config.model_args or {}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=config.num_labels, **args)
    except TypeError as error:
        given = f"student_args {args}" if args else f"student {name!r}"
        raise ValueError(f"{given}: {error}.") from error
    except RuntimeError as error:
        if "No pretrained weights" not in str(error):
            raise
        raise ValueError(f"{error} Leave --pretrained out, or name a checkpoint.") from error


def _wrap(config: TimmWrapperConfig, timm_model: nn.Module) -> TimmWrapperForImageClassification:
    # The wrapper builds weights that timm's then replace: without memory, which not every user's own model can
    with torch.device("meta") if own_module(config) is None else torch.random.fork_rng([]):
        student = TimmWrapperForImageClassification(config)
    student.timm_model = timm_model
    return student


def classifier_layers(student: PreTrainedModel) -> list[nn.Module]:
    """
    The last layer of a student or, for distilled models, both: their input is the feature.

    Raises:
        ValueError: when none is found.
    """
    timm_model = getattr(student, "timm_model", None)
    if timm_model is not None:
        classifier = timm_model.get_classifier()
        heads = list(classifier) if isinstance(classifier, (tuple, list, nn.ModuleList)) else [classifier]
    else:
        names = next((names for names in CLASSIFIER_NAMES if all(hasattr(student, name) for name in names)), ())
        heads = [getattr(student, name) for name in names]
    layers = [_last_layer(head) for head in heads]
    if not layers or None in layers:
        known = sorted({name for names in CLASSIFIER_NAMES for name in names})
        raise ValueError(
            f"No classifier layer found in {type(student).__name__}: expected one of {known} to hold a Linear or "
            "Conv2d layer."
        )
    return layers


def feature_size(student: PreTrainedModel) -> int:
    """F, the size of the feature: the input size of the last layer."""
    first = _weighted(classifier_layers(student)[0])[0]
    return first.in_features if isinstance(first, nn.Linear) else first.in_channels


def _last_layer(head: nn.Module) -> nn.Module | None:
    """The layer itself, or the last Linear or Conv2d of a container such as Sequential(Flatten, Linear)."""
    layers = _weighted(head)
    if layers and (not isinstance(head, nn.Sequential) or hasattr(head, "bn")):  # Levit's: a norm and a layer in one
        return head
    return layers[-1] if layers else None


def _weighted(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]

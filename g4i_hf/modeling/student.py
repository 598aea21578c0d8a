"""Students: building them, the layer whose input is the feature, custom architectures, and LoRA."""

import contextlib
import copy
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
import torch
from safetensors.torch import save_file
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
from transformers.trainer_utils import unwrap_peft_model
from transformers.utils import logging

from ..files import did_you_mean
from ..names import loading, require, why_missing

PAGE = "docs/guides/training.md"
HINT = f"If it is your own, import the module that registers it first ({PAGE})."
# Names of the last layers in transformers' image classifiers; tuples of two for models with two heads
CLASSIFIER_NAMES = (
    ("cls_classifier", "distillation_classifier"),
    ("classifier", "classifier_distill"),
    ("classifier",),
    ("head",),
    ("fc",),
)
# Read by an image processor; the other entries of timm's pretrained_cfg describe the original weights
PRETRAINED_CFG_KEYS = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")


def student_config_from(
    name_or_config: str | PreTrainedConfig,
    student_args: dict[str, Any] | None = None,
    image_size: int | None = None,
    **hub_kwargs,
) -> PreTrainedConfig:
    """
    The configuration of a student: a copy, that of a checkpoint (folder or Hub id) or a timm name (`resnet18`), or the
    default of a transformers model type (`vit`). Students with position embeddings are built for `image_size`.
    `student_args` are arguments of `timm.create_model`, or fields of the configuration.
    """
    student_args = dict(student_args or {})
    for name in ("num_classes", "num_labels", "id2label"):
        if name in student_args:
            raise ValueError(f"student_args names {name!r}: leave it out, the classes come from the data set.")
    if isinstance(name_or_config, PreTrainedConfig):
        config = type(name_or_config).from_dict(name_or_config.to_dict())
    elif Path(name_or_config).is_dir():
        with loading(f"student {name_or_config!r}", f" {HINT}"):
            config = AutoConfig.from_pretrained(name_or_config, trust_remote_code=False)
    elif timm.is_model(name_or_config):
        return _timm_config(name_or_config, student_args, image_size)
    elif name_or_config in CONFIG_MAPPING:
        config_class = CONFIG_MAPPING[name_or_config]
        with contextlib.suppress(TypeError):  # a custom configuration may have fields without a default
            default = config_class()
            _check_fields(default, student_args)
            if image_size is not None and hasattr(default, "image_size"):
                student_args.setdefault("image_size", image_size)
        return config_class(**student_args)
    else:
        check_is_there(name_or_config, **hub_kwargs)
        with loading(f"student {name_or_config!r}"):
            config = AutoConfig.from_pretrained(name_or_config, trust_remote_code=False, **hub_kwargs)
    if isinstance(config, TimmWrapperConfig):
        check_is_known(config.architecture)
        saved = {name: value for name, value in (config.model_args or {}).items() if name != "num_classes"}
        config.model_args = {**saved, **student_args} or None
        # The classes of the checkpoint, which would replace those of the student on loading
        for name in ("label_names", "label_descriptions"):
            vars(config).pop(name, None)
    else:
        _check_fields(config, student_args)
        for name, value in student_args.items():
            setattr(config, "_attn_implementation" if name == "attn_implementation" else name, value)
    return config


def check_is_there(name: str, revision: str | None = None) -> None:
    """Raise OSError for a student that does not exist. Sends one request to the Hub, within seconds."""
    if Path(name).is_dir() or timm.is_model(name) or name in CONFIG_MAPPING:
        return
    if why := why_missing(name, "model", revision):
        raise OSError(
            f"student {name!r} is no folder, no model of timm and no model type of transformers, and {why}."
            f"{did_you_mean(name, [*timm.list_models(), *CONFIG_MAPPING])} {HINT}"
        )


def _timm_config(name: str, student_args: dict[str, Any], image_size: int | None) -> TimmWrapperConfig:
    config = TimmWrapperConfig(architecture=name)
    known = timm.get_pretrained_cfg(name)  # None for a custom model that was registered without one
    is_fixed = image_size is not None and known is not None and known.fixed_input_size
    # For a custom model, timm passes its usual size as a pair, and this passes any other as a number
    if is_fixed and (known.input_size[-1] != image_size or own_module(config) is not None):
        student_args.setdefault("img_size", image_size)
    config.model_args = student_args or None
    return config


def _check_fields(config: PreTrainedConfig, student_args: dict[str, Any]) -> None:
    """Raise ValueError for an unknown field, as a configuration of transformers accepts any name."""
    for name in student_args:
        if not hasattr(config, name) and name != "attn_implementation":
            near = did_you_mean(name, sorted(config.to_dict()))
            raise ValueError(f"student_args names {name!r}, which {type(config).__name__} has no field for.{near}")


def new_student(config: PreTrainedConfig) -> PreTrainedModel:
    """Random weights; for timm by timm's initialisation, as transformers' wrapper draws from N(0, 0.02)."""
    if isinstance(config, TimmWrapperConfig):
        return _wrap(config, _timm_model(config.architecture, config, pretrained=False))
    if not config.architectures:
        # If a configuration has two classes (DeiT), the Auto class selects one by this name
        classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[type(config)]
        config.architectures = [(classes[0] if isinstance(classes, tuple) else classes).__name__]
    return AutoModelForImageClassification.from_config(config, trust_remote_code=False)


def pretrained_student(name: str, config: PreTrainedConfig, **hub_kwargs) -> PreTrainedModel:
    """The weights of a checkpoint and a head of `config.num_labels` classes, random if the sizes differ."""
    if timm.is_model(name) and not Path(name).is_dir():
        timm_model = _timm_model(name, config, pretrained=True)
        pretrained_cfg = {k: v for k, v in timm_model.pretrained_cfg.items() if k in PRETRAINED_CFG_KEYS}
        config.pretrained_cfg = {**pretrained_cfg, **(getattr(config, "pretrained_cfg", None) or {})}
        return _wrap(config, timm_model)
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # a head of another size is intended
    try:
        with loading(f"student {name!r}"):
            return AutoModelForImageClassification.from_pretrained(
                name, config=config, ignore_mismatched_sizes=True, trust_remote_code=False, **hub_kwargs
            )
    finally:
        logging.set_verbosity(level)


def _timm_model(name: str, config: TimmWrapperConfig, pretrained: bool) -> nn.Module:
    check_is_known(name)
    args = config.model_args or {}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=config.num_labels, **args)
    except TypeError as error:
        what = f"student_args {args}" if args else f"student {name!r}"
        raise ValueError(f"{what}: {error}.") from error
    except RuntimeError as error:
        if "No pretrained weights" not in str(error):
            raise
        raise ValueError(f"{error} Leave --pretrained out, or name a checkpoint.") from error


def _wrap(config: TimmWrapperConfig, timm_model: nn.Module) -> TimmWrapperForImageClassification:
    # timm's weights replace those of the wrapper, so these are built without memory, unless a custom model forbids it
    with torch.device("meta") if own_module(config) is None else torch.random.fork_rng([]):
        student = TimmWrapperForImageClassification(config)
    student.timm_model = timm_model
    return student


def save_timm_model(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    architecture: str,
    label_names: list[str],
    pretrained_cfg: dict[str, Any],
    model_args: dict[str, Any] | None = None,
) -> None:
    """
    `model.safetensors` and `config.json` in the layout of both timm and transformers, whose wrapper would add a prefix
    to every key, which timm cannot read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    layout = {"architecture": architecture, "num_classes": len(label_names), "label_names": label_names}
    layout |= {"pretrained_cfg": pretrained_cfg} | ({"model_args": model_args} if model_args else {})
    text = json.dumps(layout, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def classifier_layers(student: PreTrainedModel) -> list[nn.Module]:
    """The last layer of a student, or both of a distilled model; its input is the feature."""
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
        raise ValueError(f"No Linear or Conv2d classifier in {type(student).__name__}: expected one of {known}.")
    return layers


def feature_size(student: PreTrainedModel) -> int:
    """F, the size of the feature: the input size of the last layer."""
    first = _weighted(classifier_layers(student)[0])[0]
    return first.in_features if isinstance(first, nn.Linear) else first.in_channels


def _last_layer(head: nn.Module) -> nn.Module | None:
    """The layer itself, or the last Linear or Conv2d of a container such as Sequential(Flatten, Linear)."""
    layers = _weighted(head)
    if layers and (not isinstance(head, nn.Sequential) or hasattr(head, "bn")):  # Levit: norm and layer in one module
        return head
    return layers[-1] if layers else None


def _weighted(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]


# --- Custom architectures, registered with timm or transformers ------------------------------------------------------


def own_module(config: PreTrainedConfig) -> str | None:
    """Name of the module that registered a custom architecture; None for one of timm or transformers."""
    if isinstance(config, TimmWrapperConfig):
        check_is_known(config.architecture)
        module = timm.models.model_entrypoint(config.architecture).__module__
    else:
        classes = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(type(config), type(config))
        module = (classes[0] if isinstance(classes, tuple) else classes).__module__
    if module.split(".")[0] in ("timm", "transformers"):
        return None
    spec = getattr(sys.modules.get(module), "__spec__", None)  # has the real name under `python -m`
    return spec.name if spec is not None else module


def check_is_known(architecture: str) -> None:
    if not timm.is_model(architecture):
        raise ValueError(f"timm {timm.__version__} knows no architecture {architecture!r}. {HINT}")


# --- LoRA (arXiv 2106.09685) -----------------------------------------------------------------------------------------


def require_peft() -> ModuleType:
    return require("peft", "lora", "LoRA")


def find_target_modules(student: PreTrainedModel) -> list[str]:
    """
    Names of the layers that get an adapter: all linear ones but the classifier, which `all-linear` of peft adapts too.
    Raises ValueError for a student without any, and for batch norms, whose statistics no adapter can store.
    """
    classifier = {part for head in classifier_layers(student) for part in head.modules()}
    linear = [n for n, layer in student.named_modules() if type(layer) is nn.Linear and layer not in classifier]
    if not linear or has_batch_norms(student):
        why = "has batch norms" if linear else "has no linear layers but its classifier"
        raise ValueError(
            f"LoRA adapts the linear layers of a network such as vit_small_patch16_224, but the student {why}: leave "
            "use_peft out, or choose another student."
        )
    return linear


def has_batch_norms(student: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in student.modules())


def add_adapters(student: PreTrainedModel, lora: dict[str, Any]) -> None:
    """Add an adapter to each of `lora["target_modules"]`; only adapters and classifier stay trainable."""
    peft = require_peft()
    peft.inject_adapter_in_model(peft.LoraConfig(**lora), student)
    for module in student.modules():
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True  # otherwise BEiT, EVA and Swin v2 of timm read the weight without a call
    for layer in classifier_layers(student):
        layer.requires_grad_(True)


def merged(model: Any) -> Any:
    """Of a `PeftModel`, a copy of its model with all adapters merged into the weights; any other model as it is."""
    return model if unwrap_peft_model(model) is model else copy.deepcopy(model).merge_and_unload(safe_merge=True)


def is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def plain_student(model: Any) -> PreTrainedModel:
    """The student as transformers or timm would build it; adapters are merged into the weights of a copy."""
    model = merged(model)
    if model.config.lora is None:
        return model.student
    student = copy.deepcopy(model.student)
    for name in model.config.lora["target_modules"]:
        layer = student.get_submodule(name)
        layer.merge(safe_merge=True)
        student.set_submodule(name, layer.get_base_layer())
    del student.peft_config
    return student.requires_grad_(True)

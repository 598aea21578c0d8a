"""Tables and lists of a student's card that are made of its options and classes."""

import json
import re
from dataclasses import fields
from typing import Any

from ..data.stage import is_path
from ..options import AugmentationArguments, RunArguments, StudentArguments, aligns, learned_from_captions
from ..training.arguments import AlignmentArguments
from .markdown import code, code_cell

# Shown whenever they are known: what it takes to repeat the run. Other options may hold what is not for everyone
SHOWN_OPTIONS = (
    *("align_weight", "align_loss", "align_temperature", "text_encoder", "student", "image_size"),
    *("train_crop", "hflip", "num_train_epochs", "per_device_train_batch_size", "optim", "learning_rate"),
    *("lr_scheduler_type", "weight_decay", "pretrained", "seed"),
)
# Shown where they differ from their default
MORE_OPTIONS = (
    *("align_target_temperature", "align_learn_temperature", "align_logit_bias", "align_mask", "align_mix_captions"),
    *("align_gradient", "align_text_bank", "align_captions", "align_center", "align_similarity"),
    *("align_balance", "align_schedule"),
    *("supervision", "soft_label_weight", "label_noise", "image_features"),
    *("align_warmup_epochs", "align_off_epochs", "projector_type", "projector_hidden_size", "projector_norm"),
    *("student_args", "use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "freeze_backbone"),
    *("interpolation", "crop_pct", "crop_min_scale", "crop_padding", "color_jitter", "auto_augment"),
    *("random_erasing", "repeated_augmentation", "mixup_alpha", "cutmix_alpha", "mix_prob", "mix_switch_prob"),
    *("max_steps", "gradient_accumulation_steps", "max_grad_norm", "optim_args", "sgd_momentum"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio"),
    *("weight_decay_on", "layer_decay", "label_smoothing_factor", "classification_loss", "bce_target_threshold"),
    *("label_fraction", "label_seed", "label_noise_rate", "label_noise_kind", "label_noise_seed"),
    *("long_tail_factor", "long_tail_seed", "unlabelled", "caption_control"),
    *("class_weights", "ema_decay", "early_stopping_patience", "bf16", "fp16"),
)
# A run keeps those of Trainer where they differ from their default
OF_TRAINER = ("num_train_epochs", "per_device_train_batch_size", "optim", "learning_rate", "lr_scheduler_type", "seed")
OF_ADAPTERS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")
OFF_IS_SAID = ("align_weight", "hflip", "seed")
MOST_CLASSES = 1000


def options_table(options: dict[str, Any], image_size: int | None = None) -> str:
    """
    Args:
        options: the run's `train.yaml`.
        image_size: of the student, where its options leave it to the checkpoint.

    Returns:
        Those that it takes to repeat the run, without paths; empty where none are known.
    """
    if not options:
        return ""
    defaults = _defaults()
    known = {name: defaults[name] for name in OF_TRAINER if name in defaults} | options
    known["image_size"] = known.get("image_size") or image_size
    has_text = aligns(known)
    uses_captions = learned_from_captions(known) is not None
    rows = []
    for name in (*SHOWN_OPTIONS, *MORE_OPTIONS):
        value = _without_paths(known.get(name))
        if value in (None, "", [], {}) or (name in OF_ADAPTERS and not known.get("use_peft")):
            continue
        if name.startswith("align_") and name != "align_weight" and not has_text:
            continue
        if name.startswith("caption_") and not uses_captions:
            continue
        if name in MORE_OPTIONS and name not in OF_ADAPTERS and value == defaults.get(name):
            continue
        if value or name in OFF_IS_SAID or name in MORE_OPTIONS:
            rows.append(f"| {name} | {code_cell(_shown(value))} |")
    return "\n".join(["| option | value |", "|---|---|", *rows])


def class_list(names: list[str] | None) -> dict[str, Any]:
    """
    For the template: `classes`, the names in the order of the logits, each as code, so that none is read as markup.
    Empty where they are numbers that transformers has made up.
    """
    names = names or []
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return {"classes": "", "more_classes": False}
    return {
        "classes": ", ".join(code(name) for name in names[:MOST_CLASSES]),
        "more_classes": len(names) > MOST_CLASSES,
    }


def _defaults() -> dict[str, Any]:
    kinds = (RunArguments, AlignmentArguments, StudentArguments, AugmentationArguments)
    every = [each for kind in kinds for each in fields(kind)]
    return {each.name: getattr(each.default, "value", each.default) for each in every}


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        inner = {key: _without_paths(each) for key, each in value.items()}
        return {key: each for key, each in inner.items() if each is not None}
    if isinstance(value, list):
        return [each for each in map(_without_paths, value) if each is not None]
    return None if is_path(value) else value


def _shown(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)

"""What version 0.1 called otherwise: its options, of which some have no effect now, and its defaults."""

from collections.abc import Mapping
from typing import Any

# Of options that it had from Trainer, and left out of its files where it used them
DEFAULTS_OF_0_1 = {
    "num_train_epochs": 3.0,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.0,
    "logging_steps": 500,
}
# Options that no class declares any more
OLDER_OF_TRAINING = (
    *("teacher_weight", "teacher_temperature", "teacher_captions", "pseudo_label_threshold"),
    "align_gather_texts",
)
OLDER_OF_ENCODER = ("text_encoder_prompt_name",)
OLDER_OF_COMPARE = ("against", "curves")
OLDER = (*OLDER_OF_TRAINING, *OLDER_OF_ENCODER, *OLDER_OF_COMPARE)


def translated(values: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """
    Options of version 0.1 by their present names, and a warning for each that has another name or no effect. A
    ValueError as in [`check_prompt`].
    """
    values, said = dict(values), []
    check_prompt(values)
    if values.pop("text_encoder_prompt_name", None) is not None:
        said.append("text_encoder_prompt_name has no effect beside text_encoder_prompt. Leave it out.")
    said += [f"{name} is deprecated and has no effect. Leave it out." for name in OLDER_OF_COMPARE if name in values]
    for name in OLDER_OF_TRAINING:
        if name not in values:
            continue
        value = values.pop(name)
        if name == "align_gather_texts":
            if value is not None:
                said.append(f"{name} is deprecated and has no effect: texts are always gathered. Leave it out.")
        elif name != "teacher_weight":
            said.append(f"{name} is deprecated and has no effect: probabilities are calibrated. Leave it out.")
        elif float(value) > 0:
            weight = float(value)
            values |= {"supervision": "soft", "soft_label_weight": weight}
            said.append(f"teacher_weight is deprecated: use supervision: soft with soft_label_weight: {weight:g}.")
    if values.get("unlabelled") == "pseudo_label":
        values |= {"unlabelled": "keep", "supervision": "pseudo"}
        said.append("unlabelled: pseudo_label is deprecated: use supervision: pseudo.")
    return values, said


def check_prompt(options: Mapping[str, Any]) -> None:
    """A ValueError for options, or a record, of version 0.1 that name a prompt of the encoder and lack its text."""
    name = options.get("text_encoder_prompt_name")
    if name is not None and options.get("text_encoder_prompt") is None:
        raise ValueError(
            f"text_encoder_prompt_name ({name!r}) was removed: write text_encoder_prompt with the text of that "
            "prompt in its place, from the encoder's config_sentence_transformers.json (of a run, in its train.yaml)."
        )

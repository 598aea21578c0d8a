"""Configuration of [`AlignedImageClassification`]."""

from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig

from .student import HINT

PROJECTOR_NORMS = ("batch", "layer", "none")


class AlignedImageClassificationConfig(PreTrainedConfig):
    r"""
    Configuration of a student and of the projector from its feature to the space of the text embeddings.

    Args:
        student_config (`PreTrainedConfig` or `dict`):
            Configuration of the student, any of `AutoModelForImageClassification` (timm's wrapper included).
        text_embed_dim (`int`, *optional*, defaults to 384):
            Size D of the text embeddings.
        projector_hidden_size (`int`, *optional*):
            Width of the hidden layer of the projector (Linear, norm, ReLU, Linear). Defaults to 2 D, as in GPT4Image
            (arXiv 2306.00693).
        projector_norm (`str`, *optional*, defaults to `"none"`):
            Norm after the first layer: `"batch"` (the paper's choice for ResNet), `"layer"` or `"none"`
            (the paper's choice for DeiT).
        logit_scale_init (`float`, *optional*):
            Initial logarithm of a learned inverse temperature; by default the model has none.
        logit_bias_init (`float`, *optional*):
            Initial value of a learned bias of the logits; by default the model has none.
        lora (`dict`, *optional*):
            LoRA adapters of the student, with the fields of peft: `r`, `lora_alpha`, `lora_dropout` and
            `target_modules` (full names of the student's layers).

    Raises:
        ValueError: for an unknown norm.
    """

    # The configuration of the student is not listed in `sub_configs`, as transformers would reset its attention
    # implementation, which changes the last bits of logits after reloading.
    model_type = "aligned-image-classification"
    keys_to_ignore_at_inference = ["image_embeds", "logit_scale", "logit_bias"]

    def __init__(
        self,
        student_config: PreTrainedConfig | dict[str, Any] | None = None,
        text_embed_dim: int = 384,
        projector_hidden_size: int | None = None,
        projector_norm: str = "none",
        logit_scale_init: float | None = None,
        logit_bias_init: float | None = None,
        lora: dict[str, Any] | None = None,
        **kwargs,
    ):
        if student_config is None:
            student_config = {"model_type": "resnet"}  # transformers builds every configuration once without arguments
        if isinstance(student_config, dict):
            if student_config["model_type"] not in CONFIG_MAPPING:
                raise ValueError(f"transformers knows no model type {student_config['model_type']!r}. {HINT}")
            # `from_dict`, not the constructor, which does not translate `num_classes` and `label_names` of timm's
            # wrapper
            student_config = CONFIG_MAPPING[student_config["model_type"]].from_dict(dict(student_config))
        projector_hidden_size = 2 * text_embed_dim if projector_hidden_size is None else projector_hidden_size
        if projector_norm not in PROJECTOR_NORMS:
            raise ValueError(f"projector_norm is {projector_norm!r}; choose one of {', '.join(PROJECTOR_NORMS)}.")
        self.student_config: PreTrainedConfig = student_config
        self.text_embed_dim = text_embed_dim
        self.projector_hidden_size = projector_hidden_size
        self.projector_norm = projector_norm
        self.logit_scale_init = logit_scale_init
        self.logit_bias_init = logit_bias_init
        self.lora = lora
        # The classes are those of the student, repeated here for pipelines and metrics
        for name in ("id2label", "label2id", "num_labels"):
            kwargs.pop(name, None)
        kwargs["problem_type"] = "single_label_classification"
        id2label = dict(self.student_config.id2label)
        super().__init__(id2label=id2label, label2id={name: i for i, name in id2label.items()}, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:  # transformers would build another model, of random weights
            raise ValueError(
                f"This is a plain {kind} model, not an aligned one. Load it with AutoModelForImageClassification; the "
                "aligned model of a released student is in its folder aligned."
            )
        return super().from_dict(config_dict, **kwargs)


__all__ = ["AlignedImageClassificationConfig"]

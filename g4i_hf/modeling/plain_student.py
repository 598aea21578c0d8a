"""The student alone, as a checkpoint that transformers and timm load without this package."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import BaseImageProcessor, PreTrainedModel, TimmWrapperConfig

from .modeling_aligned import AlignedImageClassification
from .student import PRETRAINED_CFG_KEYS

# Of a student's image processor and architecture. The rest of pretrained_cfg, such as `file`, is about other weights
PUBLIC_PRETRAINED_CFG = (
    *PRETRAINED_CFG_KEYS,
    *("test_input_size", "test_crop_pct", "min_input_size", "fixed_input_size", "pool_size"),
    *("first_conv", "classifier"),
)


def save_student(
    model: AlignedImageClassification, folder: str | Path, processor: BaseImageProcessor | None = None
) -> None:
    """
    Writes the student's weights and configuration, without projector and adapters.

    Args:
        processor: the image processor beside it; the configuration of a timm student says as much.
    """
    student, folder = plain_student(model), Path(folder)
    if isinstance(model.config.student_config, TimmWrapperConfig):
        # transformers' wrapper would prefix every key, which timm cannot read. Bare keys suit both
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in student.timm_model.state_dict().items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        text = json.dumps(_timm_config(model), indent=2, ensure_ascii=False)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    else:
        student.save_pretrained(folder)
        if processor is not None:
            processor.save_pretrained(folder)


def plain_student(model: AlignedImageClassification) -> PreTrainedModel:
    """The student without adapters: exactly what transformers or timm would make of its configuration."""
    if model.config.lora is None:
        return model.student
    from .lora import merged_student

    return merged_student(model)


def _timm_config(model: AlignedImageClassification) -> dict[str, Any]:
    """config.json of a timm student: the trained size and normalisation in `pretrained_cfg`, the classes beside it."""
    config = model.config.student_config
    pretrained_cfg = getattr(config, "pretrained_cfg", None) or {}
    layout: dict[str, Any] = {
        "architecture": config.architecture,
        "num_classes": config.num_labels,
        "label_names": [config.id2label[i] for i in range(config.num_labels)],
        "pretrained_cfg": {name: pretrained_cfg[name] for name in pretrained_cfg if name in PUBLIC_PRETRAINED_CFG},
    }
    return layout | ({"model_args": config.model_args} if config.model_args else {})

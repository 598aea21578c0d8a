"""A trained run -> its student as a plain checkpoint that needs nothing of ours."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import AutoImageProcessor, TimmWrapperConfig

from ..evaluation.predict import load_run
from ..modeling import AlignedImageClassification


def release_student(run: str | Path, output_dir: str | Path | None = None, weights: str = "raw") -> Path:
    """
    Writes the student of a run: `AutoModelForImageClassification.from_pretrained` and, for a timm student,
    `timm.create_model("local-dir:...")` load it with exactly the run's weights. The folder is written beside its place
    and renamed.

    Args:
        run: run folder.
        output_dir: where the student goes; `<run>/student` by default.
        weights: `"raw"`, or `"ema"` for their moving average.

    Returns:
        The student's folder.

    Raises:
        FileNotFoundError: when the folder holds no trained model, or no average.
        ValueError: when `output_dir` holds something else than an earlier student.
    """
    run = Path(run)
    output_dir = Path(output_dir) if output_dir else run / "student"
    if output_dir.exists() and any(output_dir.iterdir()) and not (output_dir / "config.json").is_file():
        raise ValueError(f"{output_dir} holds something else than a student. Choose another --student_dir.")
    model, _ = load_run(run, weights)
    staging = output_dir.with_name(f".{output_dir.name}.tmp-{os.getpid()}")
    staging.mkdir(parents=True)
    try:
        save_student(model, staging)
        if not isinstance(model.config.student_config, TimmWrapperConfig):
            AutoImageProcessor.from_pretrained(run).save_pretrained(staging)
        shutil.rmtree(output_dir, ignore_errors=True)
        staging.rename(output_dir)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return output_dir


def save_student(model: AlignedImageClassification, folder: str | Path) -> None:
    """The student's weights and configuration, without projector and image processor."""
    if not isinstance(model.config.student_config, TimmWrapperConfig):
        model.student.save_pretrained(folder)
        return
    # transformers' wrapper would prefix every key, which timm cannot read. Bare keys and this config.json suit both.
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.student.timm_model.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(timm_config(model), indent=2, ensure_ascii=False) + "\n")


def timm_config(model: AlignedImageClassification) -> dict[str, Any]:
    """config.json of a timm student: the trained size and normalisation in `pretrained_cfg`, the classes beside it."""
    config = model.config.student_config
    pretrained_cfg = getattr(config, "pretrained_cfg", None) or {}
    layout: dict[str, Any] = {
        "architecture": config.architecture,
        "num_classes": config.num_labels,
        "label_names": [config.id2label[i] for i in range(config.num_labels)],
        "pretrained_cfg": {name: value for name, value in pretrained_cfg.items() if name != "num_classes"},
    }
    if config.model_args:
        layout["model_args"] = config.model_args
    return layout

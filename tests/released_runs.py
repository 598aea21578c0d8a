"""Finished run folders without any training, for tests of what is released of them."""

import json
from pathlib import Path

import torch
from students import ID2LABEL, STUDENTS

from g4i_hf import AlignedImageClassification
from g4i_hf.modeling.processing import ImageSettings, generic_processor
from g4i_hf.options import Decoding
from g4i_hf.training.run_folder import write_lineage, write_options

COMMIT = "5503434ddd753f426f4b38109466949a1217c2bb"
OPTIONS = {
    "align_weight": 0.3,
    "align_loss": "clip",
    "align_temperature": 0.2,
    "text_encoder": "sentence-transformers/all-MiniLM-L6-v2",
    "student": "resnet18",
    "num_train_epochs": 3.0,
    "learning_rate": 0.001,
    "eval_split": "validation",
    "seed": 0,
}
LINEAGE = {
    "sources": [
        {"name": "embeddings", "stage": "embedding", "images": False},
        {"id": "me/captions", "revision": COMMIT, "stage": "captioning", "images": False},
        {"id": "them/photos", "revision": COMMIT, "images": True},
    ],
    "rows": {"train": 2897, "validation": 316, "test": 1192},
    "captions": {
        "captioner": "local",
        "model": "me/captioner",
        "revision": "abc",
        **Decoding().provenance,
        "prompts": ["What is | it?"],
    },
    "text_encoder": {
        "text_encoder": "sentence-transformers/all-MiniLM-L6-v2",
        "text_encoder_revision": None,
        "text_encoder_prompt": "passage: ",
    },
    "student": {"name": "resnet18", "pretrained": True, "id": "timm/resnet18.a1_in1k", "revision": COMMIT},
    "processes": 2,
    "versions": {"g4i_hf": "0.1.0", "torch": "2.13.0", "python": "3.12"},
}
RESULTS = {
    "validation_samples": 316,
    "validation_accuracy": 0.61,
    "test_samples": 1192,
    "test_accuracy": 0.52,
    "test_recall_at_1": 0.11,
    "test_recall_at_5": 0.31,
    "test_chance_at_1": 0.01,
    "test_chance_at_5": 0.02,
}


def a_run(
    folder: Path,
    name: str = "timm-resnet",
    *,
    lineage: dict | None = LINEAGE,
    results: dict | None = RESULTS,
    checkpoint: Path | None = None,
    model: bool = True,
    **options,
) -> Path:
    """
    A run folder.

    Args:
        name: of the student.
        lineage, results: its `lineage.json` and `all_results.json`; None for none.
        checkpoint: what it starts from, in place of `name`.
        model: False leaves the weights out, for tests of figures alone.
        options: other than OPTIONS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if model:
        torch.manual_seed(0)
        wanted, student_args = (str(checkpoint), None) if checkpoint else STUDENTS[name]
        aligned = AlignedImageClassification.from_student(
            wanted,
            id2label=ID2LABEL,
            text_embed_dim=384,
            student_args=student_args,
            image_size=48,
            pretrained=checkpoint is not None,
        )
        aligned.save_pretrained(folder)
        generic_processor(ImageSettings(48)).save_pretrained(folder)
    write_options(folder, OPTIONS | options)
    if lineage is not None:
        write_lineage(folder, lineage)
    if results is not None:
        (folder / "all_results.json").write_text(json.dumps(results, sort_keys=True))
    return folder


def shifted(by: float) -> dict:
    return {name: value + by if "accuracy" in name or "recall" in name else value for name, value in RESULTS.items()}

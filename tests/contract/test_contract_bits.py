"""
Training steps and released students have the same bits as in the fixture, see bits.py.

Students and data are tiny and made by formulas: 22 images in two Parquet files, text_embeds of 12 numbers.
"""

import json
from pathlib import Path

import bits
import make
import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from doors import TWO_PROCESSES, succeed
from PIL import Image as PILImage
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

ROWS, CLASSES, DIM = 22, ["ant", "bee", "cat"], 12


def picture(number: int, width: int = 40, height: int = 36) -> PILImage.Image:
    x, y, channel = np.meshgrid(np.arange(width), np.arange(height), np.arange(3), indexing="xy")
    steps = (3 + channel) * (1 + number % 3) * x + (5 + 2 * channel) * (1 + number % 4) * y
    return PILImage.fromarray(((29 * number + steps) % 256).astype(np.uint8))


def label(number: int) -> int:
    return number // 2 % len(CLASSES)


def text_embed(number: int) -> np.ndarray:
    """Similar within a class."""
    index = np.arange(DIM)
    vector = (7 * number + 5 * index + 3 * number * index) % 11 - 5.0
    vector[label(number)] += 8
    return (vector / np.linalg.norm(vector)).astype(np.float16)


def rows(kind: str = "png", several: bool = False) -> Dataset:
    """Neighbours share a caption; each fifth row has none, each seventh no label."""
    numbers = range(ROWS)
    first = [number - number % 2 if number % 5 else None for number in numbers]
    captions = [None if row is None else f"caption {row}" for row in first]
    embeds = [None if row is None else text_embed(row) for row in first]
    if several:
        captions = [text and [text, f"text {number}"][: 1 + number % 2] for number, text in enumerate(captions)]
        embeds = [
            None if text is None else [text_embed(number + i) for i in range(len(text))]
            for number, text in enumerate(captions)
        ]
    sizes = (90, 70) if kind == "jpeg" else (40, 36)
    columns = {"image": [make.stored(picture(number, *sizes), kind) for number in numbers], "caption": captions}
    columns |= {"label": [None if number % 7 == 6 else label(number) for number in numbers], "text_embeds": embeds}
    return make.rows(ROWS, CLASSES, **columns).cast_column("image", Image())


def save(folder: Path, data: Dataset) -> None:
    folder.mkdir()
    data.select(range(9)).to_parquet(folder / "train-00000-of-00002.parquet")
    data.select(range(9, ROWS)).to_parquet(folder / "train-00001-of-00002.parquet")
    data.select(range(6)).to_parquet(folder / "validation.parquet")


RESNET = '{"layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}'
VIT_SIZE = '{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, '
CNN = {"student": "resnet", "student_args": RESNET}
VIT = {"student": "vit", "student_args": VIT_SIZE + '"patch_size": 8, "hidden_dropout_prob": 0.1}'}
TIMM = {"student": "resnet18", "student_args": '{"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}'}
COMMON = {
    "dataset_name": "{plain}",
    "image_size": 32,
    "unlabelled": "keep",
    "max_steps": 3,
    "per_device_train_batch_size": 6,
    "optim": "sgd",  # rounding can turn the sign of a gradient, which is Adam's first step
    "learning_rate": 0.2,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "per_device_eval_batch_size": 8,
    "align_weight": 0.3,  # no power of two, which would hide roundings
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": "true",
}
ADAM = {"optim": "adamw_torch", "adam_epsilon": "1e-3", "learning_rate": "1e-2", "weight_decay": 0.05}
MIXED = {"mixup_alpha": 0.4, "cutmix_alpha": 1}
TUNED = {"student_args": None, "pretrained": "true"}
CASES = {
    "cnn clip": CNN | {"align_loss": "clip"},
    "vit clip": VIT | {"align_loss": "clip"},
    "vit siglip": VIT | {"align_loss": "siglip"},
    "timm student": TIMM | {"projector_norm": "layer"},
    "baseline": CNN | {"align_weight": 0},
    "class mask": CNN | {"align_mask": "class", "align_temperature": 0.1},
    "cnn mixed": CNN | MIXED | {"classification_loss": "bce"},
    "vit mixed": VIT | MIXED | {"label_smoothing_factor": 0.1},
    "soft labels": CNN | {"supervision": "auto", "soft_label_weight": 0.7},
    "moving average": CNN | {"ema_decay": 0.6},
    "adam": VIT | ADAM | {"ema_decay": 0.6, "lr_scheduler_type": "cosine", "warmup_steps": 2},
    "accumulation": CNN | {"gradient_accumulation_steps": 2, "weight_decay_on": "matrices"},
    "official gradient": VIT | {"align_gradient": "official"},
    "several captions, all": CNN | {"dataset_name": "{several}", "align_captions": "all"},
    "several captions, sampled": VIT | {"dataset_name": "{several}", "align_captions": "sample", "max_steps": 4},
    "augmented": CNN
    | {"dataset_name": "{jpeg}", "auto_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.5}
    | {"color_jitter": 0.3, "repeated_augmentation": 2},
    "head alone": TUNED | {"student": "{cnn}", "freeze_backbone": "true"},
    "adapters": TUNED | {"student": "{vit}", "use_peft": "true", "lora_r": 2},
}
TWO = {
    "two processes": VIT,
    "two processes, mixed": CNN | MIXED | {"align_loss": "siglip"},
    "two processes, official gradient": VIT | {"align_gradient": "official"},
}
RELEASED = {
    "released cnn": ("cnn clip", {}),
    "released average": ("moving average", {"weights": "ema"}),
    "released merged adapters": ("adapters", {}),
}
# The others are left to `make test-slow`
FAST = {"cnn clip", "vit siglip", "cnn mixed", "soft labels", "several captions, all", "augmented"}
FAST |= {"two processes", "released cnn"}
LOGGED = "loss loss_ce loss_align loss_soft_labels align_weight logit_scale logit_bias grad_norm cosine_positive "
LOGGED += "cosine_negative retrieval_top1 learning_rate epoch eval_loss eval_accuracy"


def each_of(cases: dict) -> pytest.MarkDecorator:
    names = [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in cases]
    return pytest.mark.parametrize("name", names)


def log_of(run: Path) -> list[dict]:
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    lines = [{key: line[key] for key in LOGGED.split() if key in line} for line in history]
    return [line for line in lines if line.keys() - {"epoch"}]


def weights_of(run: Path) -> dict:
    """Of the model and, where there is one, its moving average."""
    files = ("model", "ema", "adapter_model")
    found = {name: load_file(run / f"{name}.safetensors") for name in files if (run / f"{name}.safetensors").exists()}
    return {f"{file}: {name}": tensor for file, state in found.items() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bits")
    save(folder / "plain", rows())
    save(folder / "several", rows(several=True))
    save(folder / "jpeg", rows("jpeg"))
    return folder


def words(folder: Path, options: dict, run: Path) -> dict:
    """Options of a run, with folders in place of their names."""
    places = {f"{{{name}}}": folder / name for name in ("plain", "several", "jpeg", "cnn", "vit")}
    found = COMMON | options | {"output_dir": run}
    return {name: places.get(value, value) for name, value in found.items() if value is not None}


def trained(folder: Path, name: str) -> Path:
    """The run of a case, trained when it is first asked for."""
    run, options = folder / name.replace(" ", "_").replace(",", ""), CASES[name] | {"use_cpu": "true"}
    kind = options["student"].strip("{}")
    if "pretrained" in options and not (folder / kind).exists():
        succeed("release", {"run": trained(folder, f"{kind} clip"), "output_dir": folder / kind})
    if not (run / "all_results.json").exists():
        succeed("train", words(folder, options, run))
    return run


@each_of(CASES)
def test_steps_of_training(folder, name):
    run = trained(folder, name)
    bits.check(name, weights_of(run), log_of(run))


@each_of(TWO)
def test_two_processes(folder, tmp_path, name):
    succeed("train", words(folder, TWO[name], tmp_path / "run"), launcher=TWO_PROCESSES)
    log = log_of(tmp_path / "run")
    assert log[0]["epoch"] == 1 / 2, "two processes with 6 images each: two steps an epoch of 22"
    bits.check(name, weights_of(tmp_path / "run"), log)


@each_of(RELEASED)
def test_a_released_student(folder, tmp_path, name):
    case, options = RELEASED[name]
    succeed("release", options, {"run": trained(folder, case), "output_dir": tmp_path / "student"})
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "student").eval()
    with torch.no_grad():
        logits = model(torch.linspace(-2, 2, 2 * 3 * 32 * 32).sin().reshape(2, 3, 32, 32)).logits
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    config.pop("transformers_version", None)
    bits.check(name, model.state_dict() | {"logits": logits}, config=config)

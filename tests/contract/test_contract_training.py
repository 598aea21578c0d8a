"""Every way of training that the README's table names: it ends, logs its terms, and does something."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from doors import TWO_PROCESSES, files_in, succeed
from drawings import CLASSES, ENCODER, STUDENT, TRAINING, draw_folder

pytestmark = pytest.mark.slow  # `make test` has the options, the mistakes and the front door

ONE_EPOCH = TRAINING | {"max_steps": 3, "logging_steps": 1, "learning_rate": "1e-2"}
VIT = {"student": "vit_tiny_patch16_224"}
VIT |= {"student_args": '{"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}', "image_size": 32}
RESNET = '{"layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}'
ALIGNED = ("loss_ce", "loss_align", "align_weight", "cosine_positive", "cosine_negative", "retrieval_top1")


@dataclass
class Mode:
    """
    Attributes:
        options: beside those of a short run; `{...}` are folders.
        logged: keys of the log lines beside those of every run.
        says: of what is printed.
        same: the weights are those of the plain run, bit for bit; else they must differ.
        files: of the run folder.
    """

    options: dict = field(default_factory=dict)
    logged: tuple = ()
    says: tuple = ()
    same: bool = False
    files: tuple = ()


FEW = {"dataset_name": "{unlabelled}", "require_labels": "false"} | ENCODER
SOFT = ("loss_soft_labels",)
LISTS = {"dataset_name": "{lists}"} | ENCODER
PRETRAINED = {"student": "{student}", "pretrained": "true", "student_args": None}
MODES = {
    # --- Objectives
    **{name: Mode({"align_loss": name}) for name in ("infonce", "soft_clip", "cosine")},
    "siglip": Mode({"align_loss": "siglip"}, ("logit_scale", "logit_bias")),
    "learned temperature": Mode({"align_learn_temperature": "true", "align_temperature": 0.05}, ("logit_scale",)),
    "temperature": Mode({"align_temperature": 0.05}),
    "weight": Mode({"align_weight": 1}),
    "whole text bank": Mode({"align_text_bank": -1}),
    "text bank": Mode({"align_text_bank": 5}),
    "centred": Mode({"align_center": "true"}),
    "class mask": Mode({"align_mask": "class"}),
    "official gradient of one process": Mode({"align_gradient": "official"}, same=True),
    "schedule": Mode({"align_schedule": "cosine", "align_warmup_epochs": 0.5}),
    "off": Mode({"align_off_epochs": 0.5}),
    "projector": Mode({"projector_type": "linear", "projector_norm": "batch"}),
    # --- What captions say about classes
    "soft labels": Mode({"supervision": "soft", "soft_label_weight": 0.5}, SOFT, ("soft labels from captions",)),
    "unlabelled": Mode(FEW, says=("9 of 18", "--supervision auto")),
    "pseudo-labels": Mode(FEW | {"supervision": "pseudo"}, says=("9 rows",), same=True),  # all are right here
    "chosen": Mode(FEW | {"supervision": "auto"}, says=("Estimates: ", "supervision: pseudo, as 50%"), same=True),
    "softened": Mode({"label_noise": "soften", "label_noise_rate": 0.3}, says=("label_noise",)),
    "relabelled": Mode({"label_noise": "relabel", "label_noise_rate": 0.3}, says=("label_noise",)),
    "wrong labels": Mode({"label_noise_rate": 0.3, "label_noise_kind": "confusable"}, says=("6 labels",)),
    "long tail": Mode({"long_tail_factor": 6}, says=("9 of 18",)),
    "of version 0.1": Mode({"teacher_weight": 0.5}, SOFT, ("supervision: soft with soft_label_weight: 0.5",)),
    "dropped": Mode(FEW | {"unlabelled": "drop"}, says=("9 of 18",)),
    "label fraction": Mode({"label_fraction": 0.5, "label_seed": 1}, says=("9 of 18",)),
    **{
        name: Mode({"caption_control": name} | ENCODER)
        for name in ("class_name", "random", "shuffle_class", "shuffle")
    },
    # --- Several captions an image
    **{f"captions: {name}": Mode(LISTS | {"align_captions": name}) for name in ("sample", "mean", "all")},
    # --- Classification, augmentation
    "mixup and CutMix": Mode({"mixup_alpha": 0.2, "cutmix_alpha": 1}),
    "captions not mixed": Mode({"mixup_alpha": 0.2, "cutmix_alpha": 1, "align_mix_captions": "false"}),
    "BCE": Mode({"classification_loss": "bce"}),
    "smoothing": Mode({"label_smoothing_factor": 0.1}),
    "class weights": Mode({"class_weights": "[1, 2, 3]"}),
    "repeats": Mode({"repeated_augmentation": 3}),
    "augmentation": Mode({"auto_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.5, "color_jitter": 0.3}),
    "crop": Mode({"train_crop": "pad", "hflip": 0}),
    # --- Students
    "transformers": Mode({"student": "resnet", "student_args": RESNET}),
    "pretrained": Mode(PRETRAINED),
    "head alone": Mode(PRETRAINED | {"freeze_backbone": "true"}),
    "LoRA": Mode(PRETRAINED | {"use_peft": "true"}, says=("LoRA",)),
    "activation checkpointing": Mode(VIT | {"activation_checkpointing": "true"}),
    # --- Optimisation
    "timm's optimizer": Mode({"optim": "timm:lamb", "layer_decay": 0.7}),
    "moving average": Mode({"ema_decay": 0.5}, same=True, files=("ema.safetensors",)),
    "early stopping": Mode(
        {"early_stopping_patience": 1, "load_best_model_at_end": "true", "metric_for_best_model": "accuracy"}
        | {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": 9},
        ("eval_accuracy",),
    ),
    "bf16": Mode({"bf16": "true"}),
    # --- Data, and what goes wrong
    "stream": Mode({"dataset_name": "{parquet}", "streaming": "true"}),
    "unreadable image": Mode(
        {"dataset_name": "{corrupt}", "on_bad_images": "skip"} | ENCODER,
        says=("cross/1.png",),
        files=("bad_images.json",),
    ),
    "NaN steps": Mode({"max_nan_steps": 2}, ("nan_steps",), same=True),
    "TensorBoard": Mode({"report_to": "tensorboard"}, same=True),
}


@pytest.fixture(scope="module")
def places(quick, loop, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    found = {"student": loop / "aligned" / "student", "embeddings": loop / "embeddings", "runs": root / "runs"}
    for name in ("unlabelled", "lists", "corrupt"):
        found[name] = draw_folder(root / name, train=18, validation=9)
    (found["corrupt"] / "train" / "cross" / "1.png").write_bytes(b"no image")
    train = found["unlabelled"] / "train"
    (train / "unlabelled").mkdir()
    lines = (train / "metadata.jsonl").read_text()
    for number in range(0, 18, 2):
        file = f"{CLASSES[number % 3]}/{number}.png"
        (train / file).rename(train / "unlabelled" / f"{number}.png")
        lines = lines.replace(file, f"unlabelled/{number}.png")
    (train / "metadata.jsonl").write_text(lines)
    metadata = found["lists"] / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    several = [row | {"caption": [row["caption"], f"drawing of {row['file_name']}"]} for row in rows]
    metadata.write_text("\n".join(json.dumps(row) for row in several))
    found["parquet"] = root / "parquet"
    embedded = {"stage": loop / "embeddings", "with_images": "true", "dataset_dir": found["parquet"]}
    quick.succeed("release", embedded)
    return found


def train(quick, places: dict[str, Path], name: str, options: dict):
    words = {"dataset_name": places["embeddings"], "output_dir": places["runs"] / name} | STUDENT | ONE_EPOCH | options
    places = {f"{{{name}}}": place for name, place in places.items()}
    words = {option: places.get(value, value) for option, value in words.items() if value is not None}
    return quick.run("train", words), Path(words["output_dir"])


@pytest.fixture(scope="module")
def plain(quick, places) -> Path:
    done, run = train(quick, places, "plain", {})
    assert done.code == 0, done.err
    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", MODES)
def test_a_way_of_training(quick, places, plain, name):
    mode = MODES[name]
    done, run = train(quick, places, name.replace(" ", "_"), mode.options)
    assert done.code == 0 and "Traceback" not in done.said, done.err[-3000:]
    assert files_in(run) >= {"model.safetensors", "config.json", "train.yaml", "all_results.json", *mode.files}
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    logged = {key for entry in history for key in entry}
    assert logged >= {*ALIGNED, *mode.logged}
    for entry in history:
        assert all(math.isfinite(value) for value in entry.values())
        if "loss_align" in entry:
            total = (
                entry["loss_ce"] + entry["align_weight"] * entry["loss_align"] + 0.5 * entry.get("loss_soft_labels", 0)
            )
            assert entry["loss"] == pytest.approx(total, rel=2e-2 if name == "bf16" else 1e-3)
    for part in mode.says:
        assert part in done.said
    is_same = (run / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert is_same == mode.same


@pytest.mark.slow
def test_a_loss_that_becomes_nan_ends_training_with_step_terms_and_images(quick, places):
    done, run = train(quick, places, "nan", {"learning_rate": "1e30", "max_steps": 6})
    assert done.code == 2 and len(done.errors()) == 1 and "Traceback" not in done.said
    assert "loss_align" in done.err and "max_nan_steps" in done.err and ".png" in done.err
    assert not (run / "model.safetensors").exists()


@pytest.mark.slow
def test_a_baseline_does_not_depend_on_captions(quick, places, folders):
    """`align_weight: 0` trains the same weights of the student with captions, with those of others, and with none."""
    runs = []
    for name, options in {
        "embedded": {"dataset_name": folders / "embeddings"},
        "shuffled": {"dataset_name": folders / "embeddings", "caption_control": "shuffle", **ENCODER},
        "without": {"dataset_name": folders / "pictures"},
    }.items():
        done, run = train(quick, places, f"baseline_{name}", {"align_weight": 0} | options)
        assert done.code == 0, done.err[-2000:]
        runs.append(run)
    code = (
        "import sys, torch; from safetensors.torch import load_file\n"
        "one, *others = [{n: t for n, t in load_file(run + '/model.safetensors').items() if not n.startswith('proj')}"
        " for run in sys.argv[1:]]\n"
        "assert len(one) > 10 and all(torch.equal(other[n], one[n]) for other in others for n in one); print('same')\n"
    )
    assert "same" in quick.python(code, *runs)


@pytest.mark.slow
def test_two_processes_train_as_one(quick, places, tmp_path):
    """Half a batch each, started by the launcher: the gradient is that of the whole batch on one process."""
    options = TRAINING | {"max_steps": 4, "logging_steps": 1, "learning_rate": 0.1, "optim": "sgd"} | VIT
    options |= {"dataset_name": places["embeddings"], "align_weight": 1, "save_strategy": "no"}
    quick.succeed("train", options, {"output_dir": tmp_path / "one"})
    halves = {"output_dir": tmp_path / "two", "per_device_train_batch_size": 3}
    del options["use_cpu"]  # which accelerate takes for one process
    succeed("train", options, halves, launcher=TWO_PROCESSES)
    runs = [json.loads((tmp_path / run / "trainer_state.json").read_text()) for run in ("one", "two")]
    assert [run["global_step"] for run in runs] == [4, 4]
    losses = [[entry["loss_align"] for entry in run["log_history"] if "loss_align" in entry] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3) and len(losses[0]) == 4
    code = (
        "import sys; from safetensors.torch import load_file\n"
        "one, two = (load_file(run + '/model.safetensors') for run in sys.argv[1:])\n"
        "print(max((one[n] - two[n]).abs().max().item() for n in one))\n"
    )
    assert float(quick.python(code, tmp_path / "one", tmp_path / "two")) < 1e-4


@pytest.mark.slow
def test_a_student_of_ones_own(quick, places, tmp_path):
    """docs/own_architectures.md: a module that registers one with timm, and the script after it."""
    (tmp_path / "my_student.py").write_text(OWN)
    words = {"dataset_name": places["embeddings"], "output_dir": tmp_path / "run", "image_size": 32} | ONE_EPOCH
    words |= {"student": "tiny_net", "student_args": '{"width": 8}'}
    own = {"module": "my_student.py"}
    quick.succeed("train", own, words, cwd=tmp_path)
    quick.succeed("evaluate", own, {"run": "run", "measures": "none"}, cwd=tmp_path)
    quick.succeed("release", own, {"run": "run"}, cwd=tmp_path)
    assert {"model.safetensors", "config.json", "README.md"} <= files_in(tmp_path / "run" / "student")
    assert "my_student" in (tmp_path / "run" / "student" / "README.md").read_text()
    done = quick.run("train", words | {"output_dir": tmp_path / "another"})
    assert done.code == 2 and "tiny_net" in done.err, "without its module nobody knows it"


OWN = """
import torch
from timm.models import build_model_with_cfg, register_model
from torch import nn


class TinyNet(nn.Module):
    def __init__(self, num_classes: int = 1000, in_chans: int = 3, width: int = 32):
        super().__init__()
        self.num_features, self.num_classes = width, num_classes
        self.stem = nn.Sequential(nn.Conv2d(in_chans, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.fc = nn.Linear(width, num_classes)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.stem(x).mean((2, 3)))


@register_model
def tiny_net(pretrained: bool = False, **kwargs) -> nn.Module:
    return build_model_with_cfg(TinyNet, "tiny_net", pretrained, **kwargs)
"""

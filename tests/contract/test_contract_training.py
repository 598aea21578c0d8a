"""Every way of training that the README's table names: it ends, logs its terms, and does something."""

import json
import math
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from doors import ROOT, TWO_PROCESSES, files_in, succeed
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
LISTS = {"dataset_name": "{lists}"} | ENCODER
PRETRAINED = {"student": "{student}", "pretrained": "true", "student_args": None}
MODES = {
    # --- Objectives
    "infonce, class mask": Mode({"align_loss": "infonce", "align_mask": "class"}),
    "centred": Mode({"align_center": "true"}),
    "cosine, schedule, off": Mode(
        {"align_loss": "cosine", "align_schedule": "cosine", "align_warmup_epochs": 0.3, "align_off_epochs": 0.3}
    ),
    "siglip": Mode({"align_loss": "siglip"}, ("logit_scale", "logit_bias")),
    "learned temperature, weight": Mode(
        {"align_learn_temperature": "true", "align_temperature": 0.05, "align_weight": 1}, ("logit_scale",)
    ),
    "official gradient of one process": Mode({"align_gradient": "official"}, same=True),
    "projector": Mode({"projector_type": "linear", "projector_norm": "batch"}),
    # --- What captions say about classes
    "unlabelled": Mode(FEW, says=("9 of 18", "--supervision auto")),
    "dropped": Mode(FEW | {"unlabelled": "drop"}, says=("9 of 18",)),
    "supervision": Mode(
        FEW | {"supervision": "auto", "soft_label_weight": 0.5},
        ("loss_soft_labels",),
        ("Estimates: ", "supervision: 50% of the captioned images", "soft labels from captions, weight 0.5"),
    ),
    # --- Several captions an image
    **{f"captions: {name}": Mode(LISTS | {"align_captions": name}) for name in ("sample", "mean", "all")},
    # --- Classification, augmentation
    "mixup and CutMix": Mode({"mixup_alpha": 0.2, "cutmix_alpha": 1}),
    "BCE, smoothing, class weights, captions not mixed": Mode(
        {"classification_loss": "bce", "label_smoothing_factor": 0.1, "class_weights": "[1, 2, 3]"}
        | {"mixup_alpha": 0.2, "align_mix_captions": "false"}
    ),
    "repeats, augmentation, crop": Mode(
        {"repeated_augmentation": 3, "auto_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.5}
        | {"color_jitter": 0.3, "train_crop": "pad", "hflip": 0}
    ),
    # --- Students
    "transformers": Mode({"student": "resnet", "student_args": RESNET}),
    "pretrained, head alone": Mode(PRETRAINED | {"freeze_backbone": "true"}),
    "LoRA": Mode(PRETRAINED | {"use_peft": "true"}, says=("LoRA",)),
    "activation checkpointing, bf16": Mode(VIT | {"activation_checkpointing": "true", "bf16": "true"}),
    # --- Optimisation
    "timm's optimizer": Mode({"optim": "timm:lamb", "layer_decay": 0.7}),
    "moving average": Mode({"ema_decay": 0.5}, same=True, files=("ema.safetensors",)),
    "early stopping": Mode(
        {"early_stopping_patience": 1, "load_best_model_at_end": "true", "metric_for_best_model": "accuracy"}
        | {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": 9},
        ("eval_accuracy",),
    ),
    # --- Data, and what goes wrong
    "Parquet": Mode({"dataset_name": "{parquet}"}, same=True),
    "unreadable image": Mode(
        {"dataset_name": "{corrupt}", "on_bad_images": "skip"} | ENCODER,
        says=("cross/1.png",),
        files=("bad_images.json",),
    ),
    "TensorBoard": Mode({"report_to": "tensorboard"}, same=True),
}


@pytest.fixture(scope="module")
def places(quick, loop, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    found = {"student": loop / "aligned" / "student", "embeddings": loop / "embeddings", "runs": root / "runs"}
    for name in ("unlabelled", "lists", "corrupt"):
        found[name] = draw_folder(root / name, train=18, validation=9)
    (found["corrupt"] / "train" / "cross" / "1.png").write_bytes(b"no image")
    found["bare"] = draw_folder(root / "bare", train=18, validation=9)
    for metadata in found["bare"].glob("*/metadata.jsonl"):  # without captions, the images in the same order
        lines = map(json.loads, metadata.read_text().splitlines())
        metadata.write_text("\n".join(json.dumps({"file_name": line["file_name"]}) for line in lines))
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


@pytest.mark.parametrize("name", MODES)
def test_a_way_of_training(quick, places, plain, name):
    mode = MODES[name]
    done, run = train(quick, places, name.replace(" ", "_"), mode.options)
    assert done.code == 0 and "Traceback" not in done.said, done.err[-3000:]
    assert files_in(run) >= {"model.safetensors", "config.json", "train.yaml", "all_results.json", *mode.files}
    soft_label_weight = mode.options.get("soft_label_weight", 1)
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    logged = {key for entry in history for key in entry}
    assert logged >= {*ALIGNED, *mode.logged}
    for entry in history:
        assert all(math.isfinite(value) for value in entry.values())
        if "loss_align" in entry:
            total = entry["loss_ce"] + entry["align_weight"] * entry["loss_align"]
            total += soft_label_weight * entry.get("loss_soft_labels", 0)
            assert entry["loss"] == pytest.approx(total, rel=2e-2 if "bf16" in name else 1e-3)
    for part in mode.says:
        assert part in done.said
    is_same = (run / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
    assert is_same == mode.same


def test_a_loss_that_becomes_nan_ends_training_with_step_and_terms(quick, places):
    done, run = train(quick, places, "nan", {"learning_rate": "1e30", "max_steps": 6})
    assert done.code == 2 and len(done.errors()) == 1 and "Traceback" not in done.said
    assert "loss_align" in done.err and "stop_on_nan" in done.err and "In step" in done.err
    assert not (run / "model.safetensors").exists()


def test_a_baseline_does_not_depend_on_captions(quick, places, folders):
    """`align_weight: 0` trains the same weights of the student with captions, with those of others, and with none."""
    runs = []
    for name, options in {
        "embedded": {"dataset_name": folders / "embeddings"},
        "others": {"dataset_name": places["lists"], **ENCODER},
        "without": {"dataset_name": places["bare"]},
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


def test_a_student_of_ones_own(quick, places, tmp_path):
    """docs/guides/training.md: its code, and its commands, with which a comparison's processes know it too."""
    page = (ROOT / "docs" / "guides" / "training.md").read_text(encoding="utf-8")
    module, lines = (
        re.search(rf"^<!-- test: {name} -->\n```\w+\n(.*?)^```$", page, flags=re.M | re.S)[1]
        for name in ("my_student with timm", "my_student")
    )
    (tmp_path / "my_student.py").write_text(module)
    (tmp_path / "pictures").symlink_to(places["embeddings"].parent / "pictures")
    for line in lines.replace("\\\n", " ").splitlines():
        start, command, *words = shlex.split(line)
        assert start == "g4i"
        done = quick.succeed(command, *words, *([ONE_EPOCH] if command == "train" else []), cwd=tmp_path)
        assert command != "train" or "g4i evaluate --run runs/mine --module my_student.py" in done.out
    student = tmp_path / "runs" / "mine" / "student"
    assert {"model.safetensors", "config.json", "README.md"} <= files_in(student)
    assert "my_student" in (student / "README.md").read_text()
    small = {"student": "tiny_net", "image_size": 32} | ONE_EPOCH | {"max_steps": 1}
    words = {"dataset_name": places["embeddings"], "output_dir": tmp_path / "another"}
    done = quick.run("train", words | small)
    assert done.code == 2 and "tiny_net" in done.err, "without its module nobody knows it"

"""Ways of training that test_contract_bits.py has not: each ends, logs its terms, and does something."""

import json
import math
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
from doors import ROOT, files_in
from drawings import ENCODER, STUDENT, TRAINING, draw_folder
from fitting import few_labels

pytestmark = pytest.mark.slow  # `make test` has the options, the mistakes and the front door

ONE_EPOCH = TRAINING | {"max_steps": 3, "logging_steps": 1, "learning_rate": "1e-2"}
VIT = {"student": "vit_tiny_patch16_224"}
VIT |= {"student_args": '{"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}', "image_size": 32}
ALIGNED = ("loss_ce", "loss_align", "align_weight", "cosine_positive", "cosine_negative", "retrieval_top1")


class Mode(NamedTuple):
    options: dict = {}  # beside those of a short run; `{...}` are folders
    logged: tuple = ()  # keys of the log lines beside those of every run
    says: tuple = ()  # of what is printed
    same: bool = False  # the weights are those of the plain run, bit for bit; else they must differ


FEW = {"dataset_name": "{unlabelled}", "require_labels": "false"} | ENCODER
MODES = {
    "projector": Mode({"projector_type": "linear", "projector_norm": "batch"}),
    # --- What captions say about classes
    "unlabelled": Mode(FEW, says=("9 of 18", "--supervision auto")),
    "dropped": Mode(FEW | {"unlabelled": "drop"}, says=("9 of 18",)),
    "supervision": Mode(
        FEW | {"supervision": "auto", "soft_label_weight": 0.5},
        ("loss_soft_labels",),
        ("Estimates: ", "supervision: 50% of the captioned images", "soft labels from captions, weight 0.5"),
    ),
    # --- Optimisation
    "activation checkpointing, bf16": Mode(VIT | {"activation_checkpointing": "true", "bf16": "true"}),
    "timm's optimizer": Mode({"optim": "timm:lamb", "layer_decay": 0.7}),
    "early stopping": Mode(
        {"early_stopping_patience": 1, "load_best_model_at_end": "true", "metric_for_best_model": "accuracy"}
        | {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": 9},
        ("eval_accuracy",),
    ),
    # --- Data, and what goes wrong
    "Parquet": Mode({"dataset_name": "{parquet}"}, same=True),
    "unreadable image": Mode({"dataset_name": "{corrupt}", "on_bad_images": "skip"} | ENCODER, says=("cross/1.png",)),
    "TensorBoard": Mode({"report_to": "tensorboard"}, same=True),
}


@pytest.fixture(scope="module")
def places(quick, loop, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    found = {"embeddings": loop / "embeddings", "runs": root / "runs"}
    found["corrupt"] = draw_folder(root / "corrupt", train=18, validation=9)
    (found["corrupt"] / "train" / "cross" / "1.png").write_bytes(b"no image")
    found["unlabelled"] = few_labels(root, 3, train=18, validation=9)
    found["parquet"] = root / "parquet"
    embedded = {"stage": loop / "embeddings", "with_images": "true", "dataset_dir": found["parquet"]}
    quick.succeed("release", embedded)
    return found


def train(quick, places: dict[str, Path], name: str, options: dict):
    words = {"dataset_name": places["embeddings"], "output_dir": places["runs"] / name} | STUDENT | ONE_EPOCH | options
    places = {f"{{{name}}}": place for name, place in places.items()}
    words = {option: places.get(value, value) for option, value in words.items()}
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
    assert files_in(run) >= {"model.safetensors", "config.json", "train.yaml", "all_results.json"}
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

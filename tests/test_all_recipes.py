"""Every recipe is built and takes its first steps; its pages name its files; accelerate reads the launcher's files."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage
from test_architecture import LAUNCHER, RECIPES, ROOT, TRAINING_FILES, YAML_FILES, parsed_options
from transformers import CONFIG_MAPPING

from g4i_hf import AlignedImageClassification
from g4i_hf.data.loading import open_images
from g4i_hf.data.stage import Source
from g4i_hf.hub import save_student
from g4i_hf.running import main
from g4i_hf.workflows.train import TrainingRun

TINY_TIMM_VIT = {"img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 2}
TINY_CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
# What makes the student of a recipe small, on top of its own student_args
SHRUNK = {
    "cifar100": {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "groups_width": 8},
    "efficientnet_lite0": {},
    "emoji_styles": {"channels": [8, 8, 16, 16]},
    "finetune": TINY_CONVNEXT,
    "imagenet_convnext": TINY_CONVNEXT,
    "imagenet_deit_base": TINY_TIMM_VIT,
    "imagenet_resnet50": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    "imagenet_swin": {"img_size": 48, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 3},
    "imagenet_vit": TINY_TIMM_VIT,
    "shapes": {"channels": [8, 8, 16, 16]},
}
# Folders of students that a recipe makes itself, and timm's name of what is in them
MADE_STUDENTS = {"runs/efficientnet_lite0": "tf_efficientnet_lite0"}
EMBED_DIMS = {"sentence-transformers/all-MiniLM-L6-v2": 384, "openai/clip-vit-base-patch32": 512}
# Two steps, as the first of a warm-up can have a learning rate of zero; the machine is not part of the recipe
SHORT = {
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "logging_strategy": "steps",
    "logging_steps": 1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": "true",
    "use_cpu": "true",
}
ALIGNMENT_SWITCHES = {"align_gradient", "align_mask", "align_mix_captions"}
FOLDERS = sorted({path.parent for path in YAML_FILES})


def of_recipe(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def tiny_images(dim: int, rows: int = 16, labels: int = 4) -> DatasetDict:
    """Random pictures with captions and random unit vectors in place of their embeddings."""
    rng = np.random.default_rng(0)
    embeds = rng.normal(size=(rows, dim))
    embeds = (embeds / np.linalg.norm(embeds, axis=1, keepdims=True)).astype(np.float16)
    features = Features(
        image=Image(),
        label=ClassLabel(names=[str(i) for i in range(labels)]),
        image_id=Value("string"),
        caption=Value("string"),
        text_embeds=List(Value("float16"), length=dim),
    )
    pictures = rng.integers(0, 256, (rows, 40, 52, 3), dtype=np.uint8)
    split = Dataset.from_dict(
        {
            "image": [PILImage.fromarray(picture) for picture in pictures],
            "label": [row % labels for row in range(rows)],
            "image_id": [str(row) for row in range(rows)],
            "caption": [f"picture {row}" for row in range(rows)],
            "text_embeds": list(embeds),
        },
        features=features,
    )
    return DatasetDict(train=split.cast_column("image", Image(decode=False)))


def tiny_weights(folder: Path, name: str, student_args: dict) -> str:
    """A folder with weights of the student made small, in place of the pretrained ones on the Hub."""
    model = AlignedImageClassification.from_student(
        name, id2label={0: "a", 1: "b"}, text_embed_dim=4, student_args=student_args, image_size=48
    )
    save_student(model, folder)
    return str(folder)


@pytest.mark.parametrize("path", TRAINING_FILES, ids=of_recipe)
def test_every_recipe_takes_its_first_steps(path, tmp_path):
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    changed = SHORT | {
        "image_size": min(written["image_size"], 48),
        "output_dir": tmp_path / "run",
        "pretrained": str(written.get("use_peft", False)).lower(),  # LoRA wants weights
    }
    more = [str(word) for name, value in changed.items() for word in (f"--{name}", value)]
    run = TrainingRun(*parsed_options(path, *more))
    student, args = run.student, run.args
    student.student = MADE_STUDENTS.get(student.student, student.student)
    student.student_args = (student.student_args or {}) | SHRUNK[path.parent.name]
    if student.pretrained:  # no network
        student.student = tiny_weights(tmp_path / "weights", student.student, student.student_args)

    dim = EMBED_DIMS[run.encoder.text_encoder]
    run.splits, run.text_embed_dim = tiny_images(dim), dim
    run.id2label = dict(enumerate(run.splits["train"].features["label"].names))
    trainer, model = run.build_trainer(), run.built.model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    trainer.train()

    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    students = [name for name in before if name.startswith("student.") and name in learning]
    assert {students[0], students[-1]} <= moved <= learning  # its first layer or adapter and its classifier
    assert any(".lora_B." in name for name in moved) == bool(written.get("use_peft"))
    is_aligned = args.align_weight > 0
    assert any(name.startswith("projector.") for name in moved) == is_aligned
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 2
    terms = ["loss", "loss_ce"] + ["loss_align"] * is_aligned
    assert all(math.isfinite(entry[term]) for entry in logs for term in terms)
    assert model.config.text_embed_dim == dim and model.config.num_labels == 4


@pytest.mark.parametrize("path", TRAINING_FILES, ids=of_recipe)
def test_student_args_are_fields_of_the_student(path):
    """timm refuses an argument that it does not know, transformers keeps it and ignores it."""
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    student, fields = MADE_STUDENTS.get(written["student"], written["student"]), set(written.get("student_args") or {})
    assert timm.is_model(student) or fields <= set(CONFIG_MAPPING[student]().to_dict())


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/official.yaml")), ids=lambda path: path.parent.name)
def test_the_corrected_run_differs_from_the_official_one_in_its_alignment_alone(path):
    official = yaml.safe_load(path.read_text(encoding="utf-8"))
    corrected = yaml.safe_load(path.with_name("corrected.yaml").read_text(encoding="utf-8"))
    differing = {name for name in official.keys() | corrected.keys() if official.get(name) != corrected.get(name)}
    assert differing == ALIGNMENT_SWITCHES | {"output_dir"}
    assert {name: official[name] for name in ALIGNMENT_SWITCHES} == {
        "align_gradient": "official",
        "align_mask": "none",
        "align_mix_captions": False,
    }


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/lora.yaml")), ids=lambda path: path.parent.name)
def test_lora_differs_from_the_full_training_in_what_it_trains_and_how_fast(path):
    lora = yaml.safe_load(path.read_text(encoding="utf-8"))
    full = yaml.safe_load(path.with_name("train.yaml").read_text(encoding="utf-8"))
    differing = {name for name in lora.keys() | full.keys() if lora.get(name) != full.get(name)}
    own = {name for name in lora if name.startswith("lora_")} | {"use_peft"}
    assert lora["use_peft"] and differing == own | {"output_dir", "learning_rate", "layer_decay"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_stages_of_a_recipe_hand_on_what_the_next_one_reads(folder):
    """One data set, one folder of embeddings, and runs that are trained before they are evaluated and released."""
    stages = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in folder.glob("*.yaml")}
    trained = {options["output_dir"]: options for options in stages.values() if "output_dir" in options}
    assert len(trained) == len([path for path in TRAINING_FILES if path.parent == folder])
    for options in trained.values():
        for name in ("dataset_name", "text_encoder", "embeddings_dir", "image_column", "label_column"):
            assert options.get(name) == stages["embed"].get(name), name
    for stage in ("evaluate", "release"):
        assert trained[stages[stage]["run"]]["align_weight"] > 0
        assert trained[stages[stage]["baseline"]]["align_weight"] == 0


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_page_of_a_recipe_has_a_command_for_each_of_its_files(folder):
    """In the order of the stages, variations (options after the file) apart; the table of recipes names the folder."""
    commands = re.findall(
        r"^(?:accelerate launch|g4i) .*\.yaml$", (folder / "README.md").read_text(encoding="utf-8"), flags=re.M
    )
    script = re.compile(r"(?:recipes/|g4i )(\w+)(?:\.py)? ")
    configs = [(script.search(line)[1], line.rsplit("--config ")[-1]) for line in commands]
    assert {config for _, config in configs} == {str(path.relative_to(ROOT)) for path in folder.glob("*.yaml")}
    stages = [stage for stage, _ in configs]
    assert stages == sorted(stages, key=["caption", "embed", "train", "evaluate", "release", "compare"].index)
    assert f"| [{folder.name}]({folder.name}) |" in (RECIPES / "README.md").read_text(encoding="utf-8")


# --- Captions -------------------------------------------------------------------------------------------------------


def caption_command(place: str) -> list[str]:
    """The options of the command of the page whose captions go to a folder."""
    page = (RECIPES / "README.md").read_text(encoding="utf-8")
    return re.search(rf"^g4i caption (.*{place}.*)$", page, flags=re.M)[1].split()


def run_caption(options: list[str]) -> None:
    main(["caption", *options, "--report", "false"])


def test_captions_are_joined_to_class_folders(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("train/n1/a", "train/n2/a", "val/n1/b", "val/n2/b")):
        path = tmp_path / "imagenet" / f"{name}.JPEG"
        path.parent.mkdir(parents=True)
        PILImage.new("RGB", (8, 8), (50 * number, 9, 9)).save(path)
    Path("captions.jsonl").write_text('{"image_id": "n2/a.JPEG", "caption": "a fish"}\n')
    run_caption(caption_command("runs/imagenet/captions"))
    splits = open_images("runs/imagenet/captions")
    assert dict(zip(splits["train"]["image_id"], splits["train"]["caption"], strict=True)) == {
        "n1/a.JPEG": None,
        "n2/a.JPEG": "a fish",
    }
    assert splits["validation"]["caption"][:] == [None, None]
    assert splits["train"].features["label"].names == ["n1", "n2"]


def test_captions_are_joined_to_the_columns_of_cifar(monkeypatch, tmp_path):
    """A stand-in for the data set on the Hub, with its columns."""
    monkeypatch.chdir(tmp_path)
    pictures = [PILImage.new("RGB", (8, 8), (90 * number, 9, 9)) for number in range(2)]
    features = Features(img=Image(), fine_label=ClassLabel(names=["apple", "bear"]))
    stand_in = Dataset.from_dict({"img": pictures, "fine_label": [1, 0]}, features=features)
    stand_in.to_parquet("cifar/train.parquet")
    named = {"image": "img", "label": "fine_label"}
    image_ids = open_images(Source("cifar", columns=named))["train"]["image_id"][:]
    Path("captions.jsonl").write_text(json.dumps({"image_id": image_ids[1], "caption": "an apple"}) + "\n")
    command = caption_command("runs/cifar100/captions")
    run_caption([word.replace("uoft-cs/cifar100", "cifar") for word in command])
    recipe = yaml.safe_load((RECIPES / "cifar100" / "train.yaml").read_text(encoding="utf-8"))
    named = {"image": recipe["image_column"], "label": recipe["label_column"]}
    split = open_images(Source(recipe["dataset_name"], columns=named))["train"]
    assert split["caption"][:] == [None, "an apple"] and split["label"][:] == [1, 0]


# --- Launcher -------------------------------------------------------------------------------------------------------

LAUNCHER_FILES = sorted(LAUNCHER.glob("*.yaml"))


@pytest.mark.parametrize("path", LAUNCHER_FILES, ids=lambda path: path.stem)
def test_accelerate_reads_every_launcher_file(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1 and config.mixed_precision in ("no", "bf16")
    known = set(vars(launch_command_parser().parse_args(["script.py"])))
    assert set(config.fsdp_config) <= known and set(config.deepspeed_config) <= known
    assert f"| `{path.name}` |" in (LAUNCHER / "README.md").read_text(encoding="utf-8")


def test_pages_name_launcher_files_that_exist():
    named = {
        name
        for page in RECIPES.glob("**/README.md")
        for name in re.findall(r"--config_file (recipes/\S+)", page.read_text(encoding="utf-8"))
    }
    assert len(named) >= 2
    assert all((ROOT / name).is_file() for name in named), named


@pytest.mark.parametrize(
    "name, more, processes, backend",
    [
        pytest.param("cpu", [], 1, None, marks=pytest.mark.slow),
        pytest.param("ddp", ["--num_processes", "2", "--main_process_port", "0"], 2, "gloo", marks=pytest.mark.slow),
    ],
)
def test_the_launcher_starts_what_its_file_says(name, more, processes, backend, tmp_path):
    """cpu.yaml as it stands; ddp.yaml on two processes without a GPU."""
    config, result = LAUNCHER / f"{name}.yaml", tmp_path / "where.json"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, *more]
    command += [ROOT / "tests" / "workers" / "where.py", result]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    found = json.loads(result.read_text())
    assert found["processes"] == [[index, "cpu"] for index in range(processes)]
    assert found["backend"] == backend
    assert name != "cpu" or load_config_from_file(str(config)).num_processes == processes

"""Every recipe is understood, takes its first steps and has its commands on its page; accelerate reads its files."""

import json
import math
import re
import subprocess
from pathlib import Path

import make
import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from datasets import DatasetDict
from doors import spelled
from loaded import ACCELERATE

from g4i_hf import AlignedImageClassification
from g4i_hf.cli import parse_options
from g4i_hf.hub import save_student
from g4i_hf.options import OPTIONS_OF
from g4i_hf.workflows.train import TrainingRun

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
LAUNCHER = RECIPES / "accelerate_configs"

# Of commands; others tell of classes
YAML_FILES = sorted(path for path in RECIPES.glob("*/**/*.yaml") if path.parent != LAUNCHER)
YAML_FILES = [path for path in YAML_FILES if not path.name.startswith("classes_")]
WRITTEN = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in YAML_FILES}
# Students that a recipe makes itself, and the one that comes as a package: timm's name of what is in them
MADE_STUDENTS = dict.fromkeys(("runs/efficientnet_lite0", "timm/tf_efficientnet_lite0.in1k"), "tf_efficientnet_lite0")
EMBED_DIMS = {"sentence-transformers/all-MiniLM-L6-v2": 384, "openai/clip-vit-base-patch32": 512}
# Two steps, as the first of a warm-up can have a learning rate of zero; the machine is not part of the recipe
SHORT = {"max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
SHORT |= {"dataloader_num_workers": 0, "logging_strategy": "steps", "logging_steps": 1, "eval_strategy": "no"}
SHORT |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": "true", "use_cpu": "true"}


def recipe_of(path: Path) -> Path:
    """The folder with the README, of which a dataset may have a folder of its own."""
    return RECIPES / path.relative_to(RECIPES).parts[0]


@pytest.mark.parametrize("folder", sorted(set(map(recipe_of, YAML_FILES))), ids=lambda folder: folder.name)
def test_the_page_of_a_recipe_has_a_command_for_each_of_its_files(folder):
    """In the order of the stages; test_docs.py parses them. The table of recipes names the folder."""
    page = (folder / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:accelerate launch|g4i) .*\.yaml$", page, flags=re.M)
    files = {str(path.relative_to(ROOT)) for path in YAML_FILES if recipe_of(path) == folder}
    assert {line.split("--config ")[1] for line in lines} == files
    stages = [re.search(r"(?:recipes/|g4i )(\w+)(?:\.py)? ", line)[1] for line in lines]
    assert stages == sorted(stages, key=["caption", "embed", "train", "evaluate", "release", "fit"].index)
    assert f"| [{folder.name}]({folder.name}) |" in (RECIPES / "README.md").read_text(encoding="utf-8")


# A baseline differs in the weight alone, and so does the official code's loss
LIKE_OTHERS = ("fit", "baseline", "official")
FIRST_STEPS = [path for path in YAML_FILES if "output_dir" in WRITTEN[path] and path.stem not in LIKE_OTHERS]
FIRST_STEPS += [RECIPES / "shapes" / "baseline.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("path", FIRST_STEPS, ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_recipe_takes_its_first_steps(path, tmp_path):
    """Made small: what should learn does, and the loss has the terms that it should."""
    written = WRITTEN[path]
    changed = SHORT | {"image_size": min(written["image_size"], 48), "output_dir": tmp_path / "run"}
    changed["pretrained"] = str(written.get("use_peft", False)).lower()  # LoRA wants weights
    run = TrainingRun(*parse_options(OPTIONS_OF["train"], spelled(({"config": path} | changed,))))
    student = run.student
    student.student = MADE_STUDENTS.get(student.student, student.student)
    if student.pretrained:  # weights of a folder, in place of those on the Hub
        build = {"id2label": {0: "a", 1: "b"}, "text_embed_dim": 4, "student_args": student.student_args}
        model = AlignedImageClassification.from_student(student.student, image_size=48, **build)
        student.student = str(tmp_path / "weights")
        save_student(model, student.student)
    dim, captions = EMBED_DIMS[run.encoder.text_encoder], [f"picture {row}" for row in range(16)]
    embeds = make.unit(np.random.default_rng(0).normal(size=(16, dim)))
    images = make.rows(16, "0123", lambda row: make.noise(row, 52, 40), caption=captions, text_embeds=embeds)
    run.opened = DatasetDict(train=images), dict(enumerate(images.features["label"].names))
    run.encoder.text_encoder = None  # they are embedded
    run.run.supervision, run.run.labels_only = "none", False  # what captions teach is tested elsewhere
    run.load()

    trainer, model = run.build_trainer(), run.prepared.built.model
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer.train()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    is_aligned = run.args.align_weight > 0
    for part, learns in (("student.", True), (".lora_B.", bool(written.get("use_peft"))), ("projector.", is_aligned)):
        assert any(part in name for name in moved) == learns, part
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    terms = ["loss", "loss_ce"] + ["loss_align"] * is_aligned
    assert len(logs) == 2 and all(math.isfinite(entry[term]) for entry in logs for term in terms)
    assert model.config.text_embed_dim == dim and model.config.num_labels == 4


@pytest.mark.parametrize("path", sorted(LAUNCHER.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_every_launcher_file(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1 and config.mixed_precision in ("no", "bf16")
    known = set(vars(launch_command_parser().parse_args(["script.py"])))
    assert set(config.fsdp_config) <= known and set(config.deepspeed_config) <= known
    assert f"| `{path.name}` |" in (LAUNCHER / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_literal_command_trains_with_the_alignment_loss_and_on_labels_only(tmp_path):
    """`accelerate launch recipes/train.py` in a clone, without any options."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    command = [ACCELERATE, "launch", "recipes/train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    out = tmp_path / "runs" / "photos_demo_train"
    both = [json.loads((run / "all_results.json").read_text()) for run in (out / "labels_only", out)]
    labels_only, aligned = (results["test_accuracy"] for results in both)
    assert f"Accuracy on test: labels only {labels_only:.1%}, with captions {aligned:.1%}." in done.stdout
    assert aligned > 0.9 and labels_only < 0.8 and "loss_align" in done.stdout

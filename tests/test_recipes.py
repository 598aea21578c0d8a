"""The scripts as people start them: real processes, real launcher, the Emoji Styles recipe."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest
import yaml
from datasets import Dataset, DatasetDict, load_dataset
from transformers import pipeline

from g4i_hf import evaluate_run

ROOT = Path(__file__).parent.parent
ACCELERATE = str(Path(sys.executable).parent / "accelerate")
SMALL = ["--student_args", '{"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}', "--image_size", "32"]
# With `--cpu`, accelerate starts one process unless there is MPI; the scripts see for themselves that there is no GPU
TWO_PROCESSES = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
TWO_PROCESSES += ["--dynamo_backend", "no", "--main_process_port", "0"]


def launch(folder: Path, *command: str, fails: bool = False) -> str:
    """Runs a command in a folder where `recipes/` is what it is in a clone; returns what it printed."""
    if not (folder / "recipes").exists():
        (folder / "recipes").symlink_to(ROOT / "recipes")
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode != 0) == fails, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def emoji_run(tmp_path_factory):
    """The recipe on two processes, shortened: aligned run, its evaluation and release."""
    folder = tmp_path_factory.mktemp("emoji")
    config = ["--config", "recipes/emoji_styles/train.yaml"]
    launch(
        folder,
        *(ACCELERATE, "launch", *TWO_PROCESSES, "recipes/train.py", *config, *SMALL),
        *("--num_train_epochs", "1", "--eval_strategy", "no", "--save_strategy", "no", "--seed", "3"),
        *("--logging_strategy", "steps", "--logging_steps", "5"),
    )
    run = folder / "runs" / "emoji_styles" / "aligned"
    launch(
        folder,
        sys.executable,
        "recipes/evaluate.py",
        "--run",
        run,
        "--baseline",
        run,
        "--report",
        folder / "report.html",
    )
    launch(folder, sys.executable, "recipes/release.py", "--run", run)
    return folder, run


@pytest.mark.slow
def test_training_on_two_processes_leaves_a_whole_run_folder(emoji_run):
    folder, run = emoji_run
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "all_results.json"} <= names
    assert {"trainer_state.json", "train.yaml", "README.md", "student", "predictions"} <= names
    assert not {path.name for path in run.rglob("*.bin")} and not {path.name for path in run.rglob("*.p*t*h")}
    results = json.loads((run / "all_results.json").read_text())
    for measure in ("validation_accuracy", "test_accuracy", "test_novel_accuracy", "test_novel_recall_at_5"):
        assert 0 <= results[measure] <= 1
    assert results["test_novel_chance_at_5"] == pytest.approx(5 / 222)
    assert results["train_samples_per_second"] > 0
    assert 1e5 < (folder / "report.html").stat().st_size < 3e6 and not (folder / "report").exists()


@pytest.mark.slow
def test_two_processes_share_the_global_batches(emoji_run):
    """2,897 images in global batches of 2 x 64 are 23 steps; one process would need 46."""
    assert json.loads((emoji_run[1] / "trainer_state.json").read_text())["global_step"] == 23


@pytest.mark.slow
def test_all_processes_report_the_same_terms(emoji_run):
    history = json.loads((emoji_run[1] / "trainer_state.json").read_text())["log_history"]
    logged = next(entry for entry in history if "loss" in entry)
    assert {"loss_ce", "loss_align", "align_weight", "cosine_positive", "cosine_negative", "retrieval_top1"} <= set(
        logged
    )
    assert logged["loss"] == pytest.approx(logged["loss_ce"] + logged["align_weight"] * logged["loss_align"], rel=1e-3)


@pytest.mark.slow
def test_no_path_of_this_machine_is_written(emoji_run):
    folder, run = emoji_run
    for path in [*run.rglob("*.json"), *run.rglob("*.md"), *run.rglob("*.yaml"), *folder.rglob("stage.json")]:
        text = path.read_text()
        assert str(folder) not in text and str(ROOT) not in text and str(Path.home()) + "/" not in text, path


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again_and_another_is_not_overwritten(emoji_run):
    folder, run = emoji_run
    before = (run / "model.safetensors").stat().st_mtime_ns
    command = [sys.executable, "recipes/train.py", "--config", run / "train.yaml"]
    assert "finished" in launch(folder, *command)
    message = launch(folder, *command, "--learning_rate", "0.5", fails=True)
    assert "learning_rate" in message and "--overwrite" in message and "Traceback" not in message
    assert (run / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_run_of_other_classes_is_not_evaluated(emoji_run):
    folder, run = emoji_run
    other = load_dataset(str(ROOT / "recipes" / "shapes"), split="train").select(range(4))
    DatasetDict(validation=other).save_to_disk(folder / "shapes")
    with pytest.raises(ValueError, match="trained on other classes"):
        evaluate_run(run, dataset_name=str(folder / "shapes"), text_encoder=None)


@pytest.mark.slow
def test_figures_of_other_data_do_not_pass_for_the_runs_own(emoji_run):
    """Some of the same pictures, those of one split without captions, under another name."""
    folder, run = emoji_run
    before = (run / "all_results.json").read_text()
    other = load_dataset(str(ROOT / "recipes" / "emoji_styles"), split="test_novel").select(range(20))
    DatasetDict(test_novel=other.remove_columns("caption"), validation=other).save_to_disk(folder / "other")
    command = [sys.executable, "recipes/evaluate.py", "--run", run, "--dataset_name", "./other"]
    command += ["--embeddings_dir", "other_embeddings", "--splits", "test_novel,validation"]
    printed = launch(folder, *command, "--report", "other.html")
    assert "There is no baseline to compare with" in (folder / "other.html").read_text()
    assert (run / "all_results.json").read_text() == before
    results = json.loads((run / "evaluations" / "other" / "all_results.json").read_text())
    assert results["test_novel_samples"] == 20 and "test_novel_recall_at_1" not in results
    assert (run / "evaluations" / "other" / "predictions" / "validation.parquet").is_file()
    assert results["validation_gallery_size"] == 20 and "evaluations/other" in printed


@pytest.mark.slow
def test_a_baseline_that_is_not_there_is_said_at_once(emoji_run):
    folder, run = emoji_run
    for script in ("evaluate", "release"):
        message = launch(
            folder, sys.executable, f"recipes/{script}.py", "--run", run, "--baseline", "runs/no", fails=True
        )
        assert "error: baseline is 'runs/no', but there is no such " in message and "Traceback" not in message


@pytest.mark.slow
def test_card_states_the_size_that_the_student_takes(emoji_run):
    assert "at 32 x 32 pixels" in (emoji_run[1] / "student" / "README.md").read_text()


@pytest.mark.slow
def test_embeddings_are_made_once(emoji_run):
    folder, _ = emoji_run
    stage = folder / "runs" / "emoji_styles" / "embeddings" / "stage.json"
    before = stage.stat().st_mtime_ns
    printed = launch(folder, sys.executable, "recipes/embed.py", "--config", "recipes/emoji_styles/embed.yaml")
    assert "Already embedded" in printed and stage.stat().st_mtime_ns == before


@pytest.mark.slow
def test_evaluator_and_pipeline_take_the_run_folder(emoji_run):
    """`evaluate.evaluator` on the path of a run finds the accuracy that `g4i evaluate` wrote."""
    import g4i_hf.modeling  # noqa: F401, registers the model with the Auto classes
    from g4i_hf.evaluation.metrics import Accuracy

    _, run = emoji_run
    split = load_dataset(str(ROOT / "recipes" / "emoji_styles"), split="test_novel")
    results = evaluate.evaluator("image-classification").compute(
        model_or_pipeline=str(run),
        data=split,
        metric=Accuracy(),
        label_mapping={name: i for i, name in enumerate(split.features["label"].names)},
    )
    written = json.loads((run / "all_results.json").read_text())
    assert results["accuracy"] == pytest.approx(written["test_novel_accuracy"], abs=0.01)
    predicted = Dataset.from_parquet(str(run / "predictions" / "test_novel.parquet"))["prediction"]
    classifier = pipeline("image-classification", model=str(run / "student"), device="cpu")
    assert [answer[0]["label"] for answer in classifier(split["image"][:10], top_k=1)] == predicted[:10]


@pytest.mark.slow
def test_packaged_recipe_is_the_same(tmp_path):
    """A pip-installed user has `g4i train`; its default is the Emoji Styles recipe too."""
    command = [sys.executable, "-m", "g4i_hf", "train", *SMALL, "--max_steps", "1", "--use_cpu", "true"]
    launch(tmp_path, *command, "--eval_strategy", "no", "--save_strategy", "no")
    options = yaml.safe_load((tmp_path / "runs" / "emoji_styles" / "aligned" / "train.yaml").read_text())
    assert options["dataset_name"].endswith("recipes/emoji_styles")


@pytest.mark.slow
def test_the_literal_command_trains_the_emoji_recipe(tmp_path):
    """`accelerate launch recipes/train.py`, with no argument, in a clone."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes", ignore=shutil.ignore_patterns("__pycache__"))
    launch(tmp_path, ACCELERATE, "launch", "recipes/train.py")
    results = json.loads((tmp_path / "runs" / "emoji_styles" / "aligned" / "all_results.json").read_text())
    assert results["validation_accuracy"] > 0.5 and results["validation_recall_at_5"] > 0.4

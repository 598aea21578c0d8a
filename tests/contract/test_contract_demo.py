"""`make demo` and `make caption-demo`: their commands, made short by options, leave what they promise."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from doors import ROOT, files_in
from drawings import TRAINING

pytestmark = pytest.mark.slow
SHORT = {
    "caption": {"max_requests": 64, "partial": "true"},
    "train": {"max_steps": 4, "eval_strategy": "no", "logging_strategy": "steps", "logging_steps": 2}
    | {name: TRAINING[name] for name in ("save_strategy", "use_cpu")},
}
RUN = {"model.safetensors", "config.json", "preprocessor_config.json", "all_results.json", "trainer_state.json"}
RUN |= {"train.yaml", "predictions/validation.parquet", "predictions/test.parquet"}
STUDENT = {"README.md", "config.json", "model.safetensors"}


def commands_of(*target: str) -> list[tuple[str, list[str]]]:
    """(command, words) of what make would start for a target, in its order."""
    shown = subprocess.run(["make", "-n", "-o", "venv", *target], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [shlex.split(line, comments=True) for line in shown.stdout.splitlines()]
    return [(words[1], words[2:]) for words in lines if words and Path(words[0]).name == "g4i"]


def play(quick, target: str, folder: Path) -> Path:
    (folder / "recipes").symlink_to(ROOT / "recipes")
    for command, words in commands_of(target):
        quick.succeed(command, *words, SHORT.get(command, {}), cwd=folder)
    return folder / "runs"


def whole(runs: Path, splits: set[str]) -> None:
    for run in ("aligned", "baseline"):
        assert files_in(runs / run) >= RUN, run
        results = json.loads((runs / run / "all_results.json").read_text())
        assert {f"{split}_accuracy" for split in splits} <= set(results)
    assert files_in(runs / "aligned" / "student") >= STUDENT
    assert {"train.parquet", "stage.json"} <= files_in(runs / "embeddings")
    assert (runs / "report.html").stat().st_size > 5e4


def test_make_demo(quick, tmp_path):
    """As it is: a minute of two cores."""
    assert [command for command, _ in commands_of("demo")] == ["check", "fit", "search", "evaluate"]
    out = play(quick, "demo", tmp_path) / "photos_demo"
    assert files_in(out / "classifier") >= STUDENT
    assert (out / "report.html").stat().st_size > 5e4 and (out / "found.html").stat().st_size > 1e4
    found, fitted = (json.loads((out / name).read_text()) for name in ("test_results.json", "all_results.json"))
    assert found["images"] == 731 and found["with_views_accuracy"] > 0.93
    low, high = found["difference_interval"]
    assert 0.15 < low < found["with_views_accuracy"] - found["labels_only_accuracy"] < high
    assert fitted["released"] == "with_views"
    assert abs(fitted["with_views_accuracy"] - found["with_views_accuracy"]) < 0.05


def test_make_demo_with_wrong_labels_has_a_page_of_them():
    commands = dict(commands_of("demo", "WRONG=0.4"))
    assert commands["check"][:2] == ["runs/wrong/pictures", "--text_encoder"]
    assert commands["fit"] == ["runs/wrong/pictures", "-o", "runs/photos_demo_wrong"]


def test_make_caption_demo(quick, tmp_path):
    started = [command for command, _ in commands_of("caption-demo")]
    assert started == ["caption", "embed", "train", "train", "evaluate", "release"]
    runs = play(quick, "caption-demo", tmp_path) / "shapes"
    assert {"train.parquet", "stage.json", "README.md", "caption_report.html"} <= files_in(runs / "captions")
    whole(runs, {"validation", "test"})

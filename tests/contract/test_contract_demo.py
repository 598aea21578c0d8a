"""`make demo` and `make caption-demo`: their commands, made short by options, leave what they promise."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from doors import ROOT, files_in
from drawings import TRAINING

pytestmark = pytest.mark.slow  # test_contract_hub.py has `make hub-demo`
SHORT = {
    "caption": {"max_requests": 64, "partial": "true"},
    "train": {"max_steps": 4, "eval_strategy": "no", "logging_strategy": "steps", "logging_steps": 2}
    | {name: TRAINING[name] for name in ("save_strategy", "use_cpu")},
}
RUN = {"model.safetensors", "config.json", "preprocessor_config.json", "all_results.json", "trainer_state.json"}
RUN |= {"train.yaml", "predictions/validation.parquet", "predictions/test.parquet"}
STUDENT = {"README.md", "config.json", "model.safetensors"}


def commands_of(target: str) -> list[tuple[str, list[str]]]:
    """(command, words) of what make would start for a target, in its order."""
    shown = subprocess.run(["make", "-n", "-o", "venv", target], cwd=ROOT, capture_output=True, text=True, check=True)
    found = []
    for line in shown.stdout.splitlines():
        words = shlex.split(line.partition("2>&1")[0].replace("(", " ").replace(")", " "), comments=True)
        if starts := [place for place, word in enumerate(words) if Path(word).name == "g4i"]:
            found.append((words[starts[0] + 1], words[starts[0] + 2 :]))
    return found


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
    assert (runs / "report.html").stat().st_size > 1e5


def test_make_demo(quick, tmp_path):
    assert [command for command, _ in commands_of("demo")] == ["embed", "train", "train", "evaluate", "release"]
    whole(play(quick, "demo", tmp_path) / "emoji_styles", {"validation", "test", "test_novel"})


def test_make_caption_demo(quick, tmp_path):
    started = [command for command, _ in commands_of("caption-demo")]
    assert started == ["caption", "embed", "train", "train", "evaluate", "release"]
    runs = play(quick, "caption-demo", tmp_path) / "shapes"
    assert {"train.parquet", "stage.json", "README.md", "caption_report.html"} <= files_in(runs / "captions")
    whole(runs, {"validation", "test"})

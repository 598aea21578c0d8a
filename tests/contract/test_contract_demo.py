"""`make demo` and `make caption-demo`: their commands, and what the former leave."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from doors import ROOT, files_in, succeed

STUDENT = {"README.md", "config.json", "model.safetensors"}


def commands_of(*target: str) -> list[tuple[str, list[str]]]:
    """(command, words) of what make would start for a target, in its order."""
    shown = subprocess.run(["make", "-n", "-o", "venv", *target], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [shlex.split(line, comments=True) for line in shown.stdout.splitlines()]
    return [(words[1], words[2:]) for words in lines if words and Path(words[0]).name == "g4i"]


@pytest.mark.slow
def test_make_demo(tmp_path):
    """As it is: a minute of two cores."""
    assert [command for command, _ in commands_of("demo")] == ["check", "fit", "search", "evaluate"]
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for command, words in commands_of("demo"):
        succeed(command, *words, cwd=tmp_path)
    out = tmp_path / "runs" / "photos_demo"
    assert files_in(out / "classifier") >= STUDENT
    assert (out / "report.html").stat().st_size > 5e4 and (out / "found.html").stat().st_size > 1e4
    found, fitted = (json.loads((out / name).read_text()) for name in ("test_results.json", "all_results.json"))
    assert found["images"] == 731 and found["with_views_accuracy"] > 0.93
    low, high = found["difference_interval"]
    assert 0.12 < low < found["with_views_accuracy"] - found["labels_only_accuracy"] < high
    assert fitted["released"] == "with_views"
    assert abs(fitted["with_views_accuracy"] - found["with_views_accuracy"]) < 0.05


def test_make_demo_with_wrong_labels_has_a_page_of_them():
    commands = dict(commands_of("demo", "WRONG=0.4"))
    assert commands["check"][:2] == ["runs/wrong/pictures", "--text_encoder"]
    assert commands["fit"][:3] == ["runs/wrong/pictures", "-o", "runs/photos_demo_wrong"]


def test_make_caption_demo():
    """With the files that test_contract_hub.py runs."""
    commands = commands_of("caption-demo")
    assert [command for command, _ in commands] == ["caption", "embed", "train", "train", "evaluate", "release"]
    for _, (option, file) in commands:
        assert option == "--config" and file.startswith("recipes/shapes/") and (ROOT / file).is_file()

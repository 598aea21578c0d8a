"""What README says is so: its tables come from results/, its commands and its code run."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from g4i_hf.cli import Parser
from g4i_hf.running import LAUNCHER_OPTIONS

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import readme_tables  # noqa: E402

README = (ROOT / "README.md").read_text()


def block(name: str) -> str:
    return re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)```", README, flags=re.S)[1]


def run(command: list[str], folder: Path, script: str | None = None) -> str:
    done = subprocess.run(command, cwd=folder, input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("page", readme_tables.PAGES)
def test_tables_are_those_of_the_results(page):
    text = (ROOT / page).read_text()
    assert "<!-- table: " in text
    assert readme_tables.with_tables(text) == text, "run python benchmarks/readme_tables.py"


def test_the_tree_names_what_there_is():
    tree = re.search(r"## The tree\n\n```\n(.*?)```", README, flags=re.S)[1]
    folder = Path()
    for line in tree.splitlines():
        name = line.split()[0]
        folder = folder if line.startswith("  ") else Path(name)
        path = folder / name if line.startswith("  ") else Path(name)
        assert (ROOT / path).exists(), path


PAGES = [ROOT / page for page in subprocess.check_output(["git", "ls-files", "*.md"], cwd=ROOT, text=True).split()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_every_page_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
        headings = re.findall(r"^#+ (.*)$", (page.parent / target if target else page).read_text(), flags=re.M)
        slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert anchor in slugs, f"{target}#{anchor}"
    for script in re.findall(r"(?:launch|python) ((?:recipes|benchmarks)/\S+\.py)", text):
        assert (ROOT / script).exists(), script
    for config in re.findall(r"--config (recipes/\S+\.yaml)", text):
        assert (ROOT / config).exists(), config


def test_every_picture_is_on_a_page():
    pages = "".join(page.read_text() for page in PAGES)
    tracked = subprocess.check_output(["git", "ls-files", "docs/images"], cwd=ROOT, text=True).split()
    assert tracked and not [path for path in tracked if f"images/{Path(path).name}" not in pages]


def commands_of(page: Path) -> list[tuple[str, list[str]]]:
    """Command and options of every command of a page that starts one of ours."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.S)
    lines = [line for text in blocks for line in text.replace("\\\n", " ").splitlines()]
    found = []
    for line in lines:
        script = re.search(r"(?:\brecipes/|\bg4i )(\w+)(?:\.py\b| )(.*)", line.split(" #")[0])
        if script:
            found.append((script[1], re.findall(r"--(\w+)", script[2])))
    return found


@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands_of(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_options_in_the_commands_of_every_page_exist(page):
    for command, names in commands_of(page):
        known = set(Parser(import_module(f"g4i_hf.commands.{command}").OPTIONS).kinds) | {"print_config", "help"}
        known |= set(LAUNCHER_OPTIONS)
        assert set(names) <= known, (command, set(names) - known)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    return folder


@pytest.mark.slow
def test_fifteen_lines_of_python(clone):
    run([sys.executable, "-"], clone, script=block("python"))
    assert (clone / "runs" / "readme" / "student" / "model.safetensors").is_file()


@pytest.mark.slow
def test_commands_on_ones_own_images_then_the_student_in_four_lines(clone):
    """The commands as they stand, on a folder of classes with captions; epochs are cut by a shorter option."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("validation", 4)):
        lines = []
        for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
            folder = clone / "pictures" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.array(color) + rng.normal(0, 20, (40, 50, 3))
                PILImage.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
                lines.append(f'{{"file_name": "{name}/{number}.png", "caption": "a {name} picture, number {number}"}}')
        if split == "train":  # others need no captions
            (clone / "pictures" / split / "metadata.jsonl").write_text("\n".join(lines))
    script = block("own images").replace("--image_size 224", "--image_size 64 --use_cpu true")
    script = script.replace("--num_train_epochs 50", "--num_train_epochs 1")
    binaries = Path(sys.executable).parent
    printed = run(["bash", "-euc", f'PATH="{binaries}:$PATH"\n{script}'], clone)
    assert "validation" in printed and "no baseline" not in printed
    assert "align_weight: 0.0" in (clone / "runs" / "pictures-baseline" / "train.yaml").read_text()
    student = block("student").replace("runs/emoji_styles/aligned/student", "runs/pictures/student")
    student = student.replace("recipes/emoji_styles/grid.png", "pictures/validation/red/0.png")
    assert "score" in run([sys.executable, "-"], clone, script=student)

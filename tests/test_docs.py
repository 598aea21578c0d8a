"""What README and the pages say is so: tables come from results/, links lead somewhere, commands and code run."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from g4i_hf.cli import Parser
from g4i_hf.running import COMMANDS, LAUNCHER_OPTIONS

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import readme_tables  # noqa: E402

README = (ROOT / "README.md").read_text()


def tracked(pattern: str) -> list[Path]:
    listed = subprocess.check_output(["git", "ls-files", pattern], cwd=ROOT, text=True).split()
    return [ROOT / name for name in listed if (ROOT / name).exists()]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


PAGES = tracked("*.md")


@pytest.mark.parametrize("page", readme_tables.PAGES)
def test_tables_are_those_of_the_results(page):
    text = (ROOT / page).read_text()
    assert "<!-- table: " in text
    assert readme_tables.with_tables(text) == text, (
        "run python benchmarks/readme_tables.py; if rows go missing, see with git log who changed results/"
    )


def test_the_tree_of_the_readme_names_what_there_is():
    tree = re.search(r"## The tree\n\n```\n(.*?)```", README, flags=re.S)[1]
    folder = Path()
    for line in tree.splitlines():
        name = line.split()[0]
        folder = folder if line.startswith("  ") else Path(name)
        path = folder / name if line.startswith("  ") else Path(name)
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_and_paths_of_every_page_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", text):
        headings = re.findall(r"^#+ (.*)$", (page.parent / target if target else page).read_text(), flags=re.M)
        slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert anchor in slugs, f"{target}#{anchor}"
    named = re.findall(r"(?:launch|python) ((?:recipes|benchmarks)/\S+\.py)", text)
    named += re.findall(r"--config(?:_file)? (recipes/\S+\.yaml)", text)
    for name in named:
        assert (ROOT / name).exists(), name


def test_every_picture_is_on_a_page():
    pages, pictures = "".join(page.read_text() for page in PAGES), tracked("docs/images")
    assert pictures and not [path for path in pictures if f"images/{path.name}" not in pages]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_options_in_the_commands_of_every_page_exist(page):
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.S)
    for line in "".join(blocks).replace("\\\n", " ").splitlines():
        started = re.search(rf"(?:\brecipes/|\bg4i )({'|'.join(COMMANDS)})(?:\.py\b| )(.*)", line.split(" #")[0])
        if started:
            known = {*LAUNCHER_OPTIONS, "print_config", "help"}
            known |= set(Parser(importlib.import_module(f"g4i_hf.commands.{started[1]}").OPTIONS).kinds)
            assert set(re.findall(r"--(\w+)", started[2])) <= known, line


INSTALL = re.compile(r"""(install|add)\s+(-\S+\s+)*["'`]?g4i[-_]hf\b""")


def test_nothing_tells_readers_to_install_the_package_by_its_name():
    """No index has it, so that whoever registers the name there would be installed in its place."""
    assert INSTALL.search("pip install g4i_hf") and INSTALL.search("uv pip install -U 'g4i-hf[onnx]'")
    files = [path for kind in ("md", "py", "j2", "yaml") for path in tracked(f"*.{kind}")]
    files = [path for path in files if ROOT / "tests" not in path.parents]
    assert len(files) > 200
    for path in files:
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))  # a message over several lines
        assert not (found := INSTALL.search(text)), f"{relative(path)}: {found[0]}"


# --- Code ------------------------------------------------------------------------------------------------------------


def block(name: str) -> str:
    return re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)```", README, flags=re.S)[1]


def run(command: list[str], folder: Path, script: str | None = None) -> str:
    done = subprocess.run(command, cwd=folder, input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


@pytest.mark.slow
def draw_pictures(folder: Path) -> None:
    """Folders of two classes; the training split has captions, others need none."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("validation", 4)):
        lines = []
        for name, color in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.array(color) + rng.normal(0, 20, (40, 50, 3))
                image = PILImage.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(folder / split / name / f"{number}.png")
                lines.append(f'{{"file_name": "{name}/{number}.png", "caption": "a {name} picture, number {number}"}}')
        if split == "train":
            (folder / split / "metadata.jsonl").write_text("\n".join(lines))


@pytest.mark.slow
def test_six_lines_of_python(clone):
    draw_pictures(clone / "pictures")
    run([sys.executable, "-"], clone, script=block("python").replace('"]\n)', '"], image_size=32\n)'))
    assert (clone / "my-classifier" / "model.safetensors").is_file()


@pytest.mark.slow
def test_commands_on_ones_own_images_then_the_student_in_four_lines(clone):
    """The commands as they stand, on a folder of classes with captions; epochs are cut by a shorter option."""
    draw_pictures(clone / "pictures")
    script = block("own images").replace("--image_size 224", "--image_size 64 --use_cpu true --num_train_epochs 1")
    printed = run(["bash", "-euc", f'PATH="{Path(sys.executable).parent}:$PATH"\n{script}'], clone)
    assert "validation" in printed and "no baseline" not in printed
    assert "align_weight: 0.0" in (clone / "runs" / "pictures-baseline" / "train.yaml").read_text()
    student = block("student").replace("runs/emoji_styles/aligned/student", "runs/pictures/student")
    student = student.replace("recipes/emoji_styles/grid.png", "pictures/validation/red/0.png")
    assert "score" in run([sys.executable, "-"], clone, script=student)


@pytest.mark.slow
def test_the_walkthrough_prints_what_it_shows(clone):
    page = (ROOT / "docs" / "walkthrough.md").read_text()
    parts = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, flags=re.S)
    assert len(parts) == page.count("```python") > 6  # every block shows its output
    mark = "--- end of block {} ---"
    script = "".join(f"{code}\nprint({mark.format(number)!r})\n" for number, (code, _) in enumerate(parts))
    printed = run([sys.executable, "-"], clone, script=script)
    for number, (code, expected) in enumerate(parts):
        output, printed = printed.split(mark.format(number) + "\n", 1)
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert doctest.OutputChecker().check_output(expected, output, flags), f"{code}\nprinted:\n{output}"

"""What README and the pages say is so: tables come from results/, links lead somewhere, commands and code run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from drawings import draw_folder, drawing
from loaded import BIN, PYTHON
from test_notebooks import cells_of

from g4i_hf import __version__
from g4i_hf.cli import Parser, parse_options
from g4i_hf.commands import COMMANDS
from g4i_hf.options import OPTIONS_OF
from g4i_hf.running import split_words

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import readme_tables  # noqa: E402


def tracked(pattern: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True)  # none in a copy
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).exists()]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_citation_and_changelog_have_the_version_of_the_package():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## (\S+) ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest[1] == __version__


PAGES, NOTEBOOKS = tracked("*.md"), tracked("*.ipynb")


@pytest.mark.parametrize("page", readme_tables.PAGES)
def test_tables_are_those_of_the_results(page):
    text = (ROOT / page).read_text()
    assert "<!-- table: " in text
    assert readme_tables.with_tables(text) == text, (
        "run python benchmarks/readme_tables.py; if rows go missing, see with git log who changed results/"
    )


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


def code_of(notebook: Path) -> str:
    return "\n".join(cells_of(notebook, "code"))


def commands_of(page: Path) -> list[tuple[str, list[str]]]:
    """The commands of g4i in the blocks of a page, or in the `!` lines of a notebook: name and words."""
    if page in NOTEBOOKS:
        blocks = re.findall(r"^\s*!((?:.*\\\n)*.*\n)", code_of(page) + "\n", flags=re.M)
    else:
        blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.S)
    found = []
    for line in "".join(blocks).replace("\\\n", " ").splitlines():
        started = re.search(
            rf"(?:\brecipes/|\bg4i )({'|'.join(COMMANDS)})(?:\.py\b| )(.*)", re.split(" #| > ", line)[0]
        )
        if started:
            found.append((started[1], shlex.split(started[2])))
    return found


@pytest.mark.parametrize("page", PAGES + NOTEBOOKS, ids=relative)
def test_the_commands_of_every_page_are_understood(page, monkeypatch):
    """Their options exist and take the values given; with files that are not here, this is all that can be said."""
    monkeypatch.chdir(ROOT)
    for command, words in commands_of(page):
        classes = OPTIONS_OF[command]
        words = [word for word in split_words(words)[0] if word not in ("--help", "--print_config")]
        files = [after for word, after in zip(words, words[1:], strict=False) if word in ("--config", "--module")]
        if command != "evaluate" and all(Path(file).is_file() for file in files):  # evaluate reads the run
            parse_options(classes, words)
        else:
            Parser(classes).command_line(words)


INSTALL = re.compile(r"""(install|add)\s+(-\S+\s+)*["'`]?g4i[-_]hf\b(?!\[[\w,]+\] @ git\+)""")


def test_nothing_tells_readers_to_install_the_package_by_its_name():
    """No index has it, so that whoever registers the name there would be installed in its place."""
    assert INSTALL.search("pip install g4i_hf") and INSTALL.search("uv pip install -U 'g4i-hf[onnx]'")
    assert not INSTALL.search('pip install "g4i_hf[demo,onnx] @ git+https://example.org/g4i_hf"')
    files = [path for kind in ("md", "py", "j2", "yaml", "ipynb") for path in tracked(f"*.{kind}")]
    files = [path for path in files if ROOT / "tests" not in path.parents]
    assert len(files) > 200
    for path in files:
        text = code_of(path) if path in NOTEBOOKS else path.read_text(encoding="utf-8")
        text = re.sub(r'"\s*\n\s*f?"', "", text)  # a message over several lines
        assert not (found := INSTALL.search(text)), f"{relative(path)}: {found[0]}"


def block(name: str, page: str = "README.md") -> str:
    text = (ROOT / page).read_text()
    return re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)```", text, flags=re.S)[1]


def run(command: list[str], folder: Path, script: str | None = None) -> str:
    done = subprocess.run(command, cwd=folder, input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_commands_on_ones_own_images(tmp_path):
    """The commands as they stand, on a folder of classes with captions; epochs are cut by a shorter option."""
    draw_folder(tmp_path / "pictures", train=16, validation=8)
    script = block("own images", TRAINING)
    script = script.replace("--image_size 224", "--image_size 64 --use_cpu true --num_train_epochs 1")
    printed = in_shell(script, tmp_path)
    assert "validation" in printed and "no baseline" not in printed
    assert "align_weight: 0.0" in (tmp_path / "runs" / "pictures-baseline" / "train.yaml").read_text()
    assert (tmp_path / "runs" / "pictures" / "student" / "model.safetensors").is_file()


QUICKSTART, TRAINING = "docs/quickstart.md", "docs/guides/training.md"


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    """A folder in which the first commands of the quickstart were run, on drawings, with few steps."""
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    pictures = draw_folder(folder / "pictures", train=16, validation=8)
    for split in ("train", "validation"):
        metadata = pictures / split / "metadata.jsonl"
        metadata.write_text(metadata.read_text().replace('"circle/', '"cats/'))
        (pictures / split / "circle").rename(pictures / split / "cats")
    for name in ("validation/cats/0.jpg", "validation/cats/7.jpg", "train/cats/1.jpg"):
        drawing(30).save(pictures / name)
    said = in_shell(block("fit", QUICKSTART), folder)
    assert "Nothing was written" in said and "Judged on 10 validation images" in said
    return folder


def in_shell(script: str, folder: Path) -> str:
    return run(["bash", "-euc", f'PATH="{BIN}:$PATH"\n{script}'], folder)


@pytest.mark.slow
def test_the_quickstart_leaves_what_it_lists(fitted):
    listed = re.findall(r"^(runs/pictures/\S+) ", (ROOT / QUICKSTART).read_text(), flags=re.M)
    assert len(listed) == 4
    for path in listed:
        assert (fitted / path).exists(), path


@pytest.mark.slow
@pytest.mark.parametrize("page", [QUICKSTART, "docs/guides/search.md"])
def test_search_by_text(fitted, page):
    assert re.search(r"^-?\d\.\d{3}  pictures/", in_shell(block("search", page), fitted), flags=re.M)
    assert (fitted / "found.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "name", "says"),
    [
        (QUICKSTART, "pipeline", "score"),
        ("README.md", "pipeline", "score"),
        ("docs/guides/search.md", "search in python", "score"),
        (QUICKSTART, "python", "eval_loss"),
        (TRAINING, "step by step", "torch.Size([2, 58]) torch.Size([2, 384])"),
    ],
)
def test_python_of_the_pages(fitted, page, name, says):
    script = block(name, page).replace('supervision="auto"', 'supervision="auto", image_size=32')
    assert says in run([PYTHON, "-"], fitted, script=script)


def test_views_in_python(capsys):
    page, known = "docs/guides/views.md", {}
    exec(block("data of views", page) + block("views", page), known)
    labels, suspicious = known["labels"], known["suspicious"]
    assert "95% interval" in capsys.readouterr().out
    assert len(suspicious) and (labels != known["truth"])[suspicious].mean() > 0.9
    assert (known["predicted"].argmax(1) == known["truth"][:5]).mean() > 0.5

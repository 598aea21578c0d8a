"""What README and the pages say is so: tables come from results/, links lead somewhere, commands and code run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import make
import pytest
from drawings import draw_folder, drawing
from loaded import BIN, PYTHON

import g4i_hf
from g4i_hf import __version__, load_images, priors
from g4i_hf.cli import Parser, parse_options
from g4i_hf.commands import COMMANDS
from g4i_hf.evaluation import estimate
from g4i_hf.options import OPTIONS_OF
from g4i_hf.options.fields import names_of
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


def test_constants_on_pages_are_those_of_the_code():
    page, wrong_labels = (ROOT / "docs" / name for name in ("how_fit_decides.md", "label_noise.md"))
    of_one, of_none = priors.OVERCONFIDENCE_OF_ONE_LABEL, priors.OVERCONFIDENCE_WITHOUT_LABEL
    stds = f"{priors.STD_OF_ONE_LABEL:.2f}^2) + {priors.STD_WITHOUT_LABEL:.2f}^2 L^2"
    for text in (page.read_text(), estimate.__doc__):
        assert f"B = {of_one:.2f} J K + {of_none:.2f} L" in text and f"K^2 (s^2 + {stds}" in text
    assert f"a mean of {priors.PRIOR_MEAN_WRONG_LABELS:.0%} wrong labels" in page.read_text()
    bias, difference = priors.PRIOR_STD_BIAS, priors.PRIOR_STD_BIAS_OF_DIFFERENCE
    assert f"{bias:.2f} of the expected error, and for a difference {difference:.2f} of" in page.read_text()
    assert f"Student's, {priors.DEGREES_OF_FREEDOM} degrees" in page.read_text()
    assert f"fewer than {priors.MIN_HELD_OUT} labels can be held out" in page.read_text()
    ends = f"at most {priors.LIKELIHOOD_RATIO:.1f} below the highest, or {priors.LIKELIHOOD_RATIO_OF_KIND:.1f} where"
    assert ends in wrong_labels.read_text()
    gain = (
        f"{priors.MIN_GAIN_OF_PATTERN:g} in log-likelihood with priors, and {priors.MIN_GAIN_OF_PATTERN_A_ROW:g} per"
    )
    assert gain in wrong_labels.read_text()
    assert f"`k` from 0 to {priors.MAX_NOISE_EXPONENT:g}" in wrong_labels.read_text()


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
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


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
def test_training_on_ones_own_images_and_a_student_of_ones_own(tmp_path):
    """The commands as they stand, on a folder of classes with captions; epochs are cut by a shorter option."""
    draw_folder(tmp_path / "pictures", train=16, validation=8)
    (tmp_path / "my_student.py").write_text(block("my_student with timm", TRAINING))
    script = block("own images", TRAINING) + block("my_student", TRAINING)
    script = re.sub(r"--image_size \d+", "--image_size 64 --use_cpu true --num_train_epochs 1", script)
    printed = in_shell(script, tmp_path)
    assert "no baseline" not in printed and "g4i evaluate --run runs/mine --module my_student.py" in printed
    assert "align_weight: 0.0" in (tmp_path / "runs" / "pictures-baseline" / "train.yaml").read_text()
    assert (tmp_path / "runs" / "pictures" / "student" / "model.safetensors").is_file()
    assert "my_student" in (tmp_path / "runs" / "mine" / "student" / "README.md").read_text()


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
    assert "Nothing was written" in said and re.search(r"Judged on \d+ validation images", said)
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
        ("docs/guides/views.md", "data of views, views", "95% interval"),
    ],
)
def test_python_of_the_pages(fitted, page, name, says):
    script = "".join(block(each, page) for each in name.split(", "))
    script = script.replace('supervision="auto"', 'supervision="auto", image_size=32')
    assert says in run([PYTHON, "-"], fitted, script=script)


@pytest.mark.slow
def test_the_commands_after_shipping_run_in_their_order(tmp_path):
    """`g4i label` prints what it would show; a person has taken out what shows no class."""
    page, pictures = "docs/guides/predict.md", draw_folder(tmp_path / "pictures", train=48, validation=120)
    for folder, first, end in (("new_pictures", 200, 212), ("march", 240, 300), ("stars", 300, 312)):
        (tmp_path / folder).mkdir()
        for number in range(first, end):
            drawing(number).rotate(45 * (folder == "stars")).save(tmp_path / folder / f"{number}.png")
    together = "old and new together", "gold of both"
    quick = "g4i fit pictures --group_by none --image_size 64 --finetune false"
    in_shell(quick, tmp_path)
    for name in ("predict", "precision", "another month", "label another month", *together, "none"):
        script = block(name, page).replace("--pick", "--list --image_size 64 --pick")
        script = script.replace(
            "g4i fit pictures", "g4i fit pictures --group_by none --image_size 64 --finetune false"
        )
        if name == "precision":
            script = script.replace("predictions.csv", "sure.csv")
        if name == "none":
            for number in range(20):
                make.noise(number, 32).save(pictures / "train" / "unlabelled" / f"n{number}.png")
                line = {"file_name": f"train/unlabelled/n{number}.png", "label": None, "none": True}
                with (pictures / "labels.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
        if name == "old and new together":
            line = {"file_name": "240.png", "label": "circle", "pick": "gold"}
            (tmp_path / "march" / "labels.jsonl").write_text(json.dumps(line) + "\n")
        said = in_shell(script, tmp_path)
        assert name != "another month" or "--pick gold --n 50 --run runs/pictures" in said or "Expected there" in said
        assert name != "old and new together" or "so these were not checked" in said
    assert "g4i predict says `none`" in said
    assert {path.name for path in tmp_path.glob("*.csv")} == {
        *("predictions.csv", "sure.csv", "march.csv", "decided.csv")
    }


def test_the_file_of_classes_of_the_page_changes_classes_as_it_says(tmp_path):
    page, pictures = "docs/guides/classes.md", draw_folder(tmp_path / "pictures", captions=False, train=12)
    for old, new in (("circle", "red_rose"), ("cross", "wild_tulip"), ("square", "unsorted")):
        (pictures / "train" / old).rename(pictures / "train" / new)
    assert "classes.yaml: 3 classes. Describe" in in_shell(block("classes", page), tmp_path)
    (pictures / "classes.yaml").write_text(block("file of classes", page))
    training = g4i_hf.load_images(pictures)["train"]
    assert training.features["label"].names == ["rose", "tulip"] and sorted(training["label"]) == [0] * 4 + [1] * 4


def test_a_clone_has_the_commands_to_install_fit_and_test_and_a_line_for_each_command():
    """In README, and in the reference, whose options only the site has."""
    readme = (ROOT / "README.md").read_text()
    for command in ("pip install -e '.[demo]'", "g4i fit pictures", "make test", "make demo"):
        assert command in readme, command
    lines = re.findall(
        r"^\| `g4i (\w+)` \| (.*) \|$", (ROOT / "docs" / "reference" / "cli.md").read_text(), flags=re.M
    )
    assert dict(lines) == {name: command.__doc__.splitlines()[0] for name, command in COMMANDS.items()}


# --- Notebooks: stored as they ran, and each runs from its first cell to its last ------------------------------------

SHELL = """
import subprocess

def shell(command):
    subprocess.run(command, shell=True, check=True)
"""
# What each prints
PRINTED = {
    "first_classifier": "With captions the classifier is right for about",
    "wrong_labels": "of the 12 wrong labels are among them",
    "views": "together",
}


def script_of(notebook: Path) -> str:
    """Its code; a line `!command` runs in a shell, with the values of `{names}`, as in IPython."""
    return SHELL + re.sub(r"(?m)^( *)!((?:.*\\\n)*.*)$", r"\1shell(f'''\2''')", code_of(notebook))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_short_and_stored_as_it_ran_and_uses_public_names(notebook):
    stored = json.loads(notebook.read_text(encoding="utf-8"))
    assert len(stored["cells"]) <= 16 and notebook.stat().st_size < 300_000
    code_cells = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code_cells] == list(range(1, len(code_cells) + 1))
    outputs = [output for cell in code_cells for output in cell["outputs"]]
    assert outputs and all(output["output_type"] != "error" and output.get("name") != "stderr" for output in outputs)
    assert f"/blob/main/notebooks/{notebook.name})" in "".join(stored["cells"][0]["source"])
    code = script_of(notebook).replace("g4i_hf.__file__", "")
    assert not re.findall(r"g4i_hf\.\w+\.|from g4i_hf\.|import g4i_hf\.|\b_\w+\(", code)
    assert not re.findall(r"[\"' (]/(?:home|root|tmp|work|usr|content)\b|[A-Z]:\\\\", notebook.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_start_to_end(notebook, tmp_path):
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [PYTHON, "-"],
        cwd=tmp_path, input=script_of(notebook), env=os.environ | {"MPLBACKEND": "Agg", "PATH": path},
        capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    assert PRINTED[notebook.stem] in done.stdout


# --- The site: what docs/build.py prepares, and that it needs nothing heavy ------------------------------------------

# As where only the packages of the site are installed
ALONE = "import runpy, sys; sys.modules |= dict.fromkeys(('torch', 'datasets')); "
ALONE += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.mark.slow
def test_the_site_has_every_page_in_its_navigation_and_every_option_in_its_reference(tmp_path):
    subprocess.run([sys.executable, "-c", ALONE, ROOT / "docs" / "build.py", tmp_path / "docs"], check=True)
    found = {path.relative_to(tmp_path / "docs").as_posix() for path in tmp_path.rglob("*.md")}
    assert set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text())) == found
    text = (tmp_path / "docs" / "reference" / "cli.md").read_text()
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S))
    for command, classes in OPTIONS_OF.items():
        for name in {name for cls in classes for name in names_of(cls)}:
            assert f"| `--{name}` |" in sections[f"g4i {command}"] + sections["Shared options"], (command, name)
    assert "| `--align_weight` | `0.3` | Weight lambda" in sections["g4i train"]
    assert "&lt;run>/student, &lt;run>/classifier or" in sections["g4i release"]


def test_the_reference_has_every_public_name():
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    assert set(re.findall(r"^::: g4i_hf\.(\S+)", pages, flags=re.M)) == set(g4i_hf.__all__) - {"__version__"}


@pytest.mark.slow
def test_from_shards_to_a_classifier_and_back(tmp_path):
    """On a folder in place of a bucket."""
    rows = load_images(draw_folder(tmp_path / "pictures", train=120))["train"]
    for shard, (folder, part) in enumerate([("sample", range(0, 60)), ("bucket/photos", range(60, 120))]):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(2):
            images = rows.select(part[number::2]).select_columns(["image", "label", "caption"])
            images.to_parquet(tmp_path / folder / f"train-{shard}{number}.parquet")
    page = "docs/guides/large_datasets.md"
    options = "--group_by none --image_size 64 --finetune false"
    for name in ("fit a sample", "predict shards"):
        in_shell(block(name, page).replace("s3://", "").replace("fit sample", f"fit sample {options}"), tmp_path)
    code = block("back", page).replace("s3://", "")
    run([PYTHON, "-"], tmp_path, code)
    again = load_images(tmp_path / "sample")["train"]
    assert len(again) == 120

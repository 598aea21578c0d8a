"""The Gradio app of a student: its folder and its functions. Its page: test_space_page.py."""

import ast
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from huggingface_hub import SpaceCard
from PIL import Image as PILImage
from PIL import ImageCms
from PIL.PngImagePlugin import PngInfo
from students import STUDENTS

from g4i_hf import AlignedImageClassification
from g4i_hf.embedding import load_encoder
from g4i_hf.hub import release_student
from g4i_hf.hub.privacy import check_publishable
from g4i_hf.hub.space import _card, _data, build_space, write_captions, write_gallery
from g4i_hf.hub.space_app import Explainer, VisitorError, read_names
from g4i_hf.modeling.processing import ImageSettings, generic_processor

ROOT = Path(__file__).parent.parent
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
NAMES = ["blue thing", "green thing", "red thing"]
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # the one thing that Pillow carries along
CANARY = "taken with Ann's telephone"


def picture(number: int, size: int = 24) -> PILImage.Image:
    draw = np.random.default_rng(number)
    return PILImage.fromarray(draw.integers(0, 255, (size, size, 3), dtype=np.uint8))


def write_data(folder: Path) -> None:
    """Pictures that say where they were taken, in two splits; a caption is there twice, and one is missing."""
    (folder / "files").mkdir(parents=True)
    splits = {}
    for split, captions in {"train": ["a", "b", None, "b", "c"], "test": ["d", "e", None, "a"]}.items():
        rows = []
        for number, caption in enumerate(captions):
            path, info, exif = folder / "files" / f"{split}{number}.png", PngInfo(), PILImage.Exif()
            info.add_text("Comment", CANARY)
            exif[0x010F] = CANARY
            picture(number, 700 if split == "test" and number == 0 else 24).save(
                path, pnginfo=info, exif=exif, icc_profile=PROFILE
            )
            text = f"a picture of {caption}" if caption else None
            rows.append({"image": str(path), "label": number % 3, "caption": text})
        features = Features({"image": Image(), "label": ClassLabel(names=NAMES), "caption": Value("string")})
        splits[split] = Dataset.from_list(rows, features=features)
    DatasetDict(splits).save_to_disk(folder / "set")


def write_run(folder: Path, **options) -> Path:
    torch.manual_seed(0)
    student, student_args = STUDENTS["timm-resnet"]
    model = AlignedImageClassification.from_student(
        student, id2label=dict(enumerate(NAMES)), text_embed_dim=384, student_args=student_args, image_size=24
    )
    model.save_pretrained(folder)
    generic_processor(ImageSettings(24)).save_pretrained(folder)
    written = {"dataset_name": "../data/set", "text_encoder": MINILM, "train_split": "train", "align_weight": 0.3}
    lines = [f"{name}: {value}\n" for name, value in (written | {"align_temperature": 0.1} | options).items()]
    (folder / "train.yaml").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of everything, the run, and the app."""
    root = tmp_path_factory.mktemp("space")
    write_data(root / "data")
    run = write_run(root / "run")
    student = release_student(run)
    (student / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A student\n")
    return root, run, build_space(run, student, run / "space", repo_id="ann/things")


@pytest.fixture(scope="module")
def explainer(built):
    return Explainer(built[2], device="cpu")


def test_the_folder_is_a_space(built):
    _, run, space = built
    names = {path.name for path in space.iterdir()}
    assert names == {"app.py", "README.md", "requirements.txt", "space.json", "captions.parquet"} | {
        "g4i_hf",
        "gallery",
        "model",
    }
    card = SpaceCard.load(space / "README.md")
    data = card.data.to_dict()
    assert (data["sdk"], data["app_file"], data["license"]) == ("gradio", "app.py", "cc-by-4.0")
    assert data["models"] == ["ann/things"] and re.fullmatch(r"\d+\.\d+\.\d+", data["sdk_version"])
    assert data["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert len(data["short_description"]) <= 60  # the Hub refuses more
    assert "3 distinct captions" in card.content and MINILM in card.content
    requirements = (space / "requirements.txt").read_text().split()
    assert f"gradio=={data['sdk_version']}" in requirements
    assert all(re.fullmatch(r"[\w-]+==[\d.]+(post\d+)?", line) for line in requirements)
    assert not [line for line in requirements if "g4i" in line]  # the app has a copy: no index has the package
    assert not [path for path in space.rglob("*") if path.suffix in (".pyc", ".j2") or path.name == "recipes"]


def test_requirements_cover_what_the_code_imports(built):
    imported = {
        match[1]
        for path in built[2].rglob("*.py")
        for match in re.finditer(r"^ *(?:from|import) (\w+)", path.read_text(), re.M)
    } - set(sys.stdlib_module_names)
    called = {"PIL": "pillow", "yaml": "pyyaml", "sentence_transformers": "sentence-transformers"}
    lines = {line.split("==")[0] for line in (built[2] / "requirements.txt").read_text().split()}
    # tqdm and httpx2 come with huggingface_hub, tokenizers with transformers; peft is for runs that train adapters
    assert {called.get(name, name) for name in imported} - {"g4i_hf", "tqdm", "httpx2", "tokenizers", "peft"} <= lines


def test_nothing_of_this_machine_and_no_metadata_is_in_it(built):
    root, _, space = built
    check_publishable(space)
    for path in space.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for canary in (str(root), str(ROOT), str(Path.home()) + "/", sys.prefix, CANARY):
                assert canary.encode() not in content, path
    for path in (space / "gallery").iterdir():
        with PILImage.open(path) as image:
            assert image.format == "PNG" and not image.info and not image.getexif() and max(image.size) <= 512


def test_captions_are_distinct_and_their_vectors_are_the_encoders(built):
    table = pq.read_table(built[2] / "captions.parquet")
    captions = table["caption"].to_pylist()
    assert captions == ["a picture of a", "a picture of b", "a picture of c"]
    assert str(table.schema.field("text_embeds").type.value_type) == "halffloat"
    vectors = np.asarray(table["text_embeds"].to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(vectors, load_encoder(MINILM).encode(captions), atol=1e-3)


def test_captions_are_drawn_where_there_are_too_many_and_lists_are_taken_apart(tmp_path):
    rows = {
        "caption": [["x", "y"], ["y", " "], [], None, ["z"]],
        "text_embeds": [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0]], [], None, [[-1.0, 0.0]]],
    }
    split = Dataset.from_dict(rows)
    assert write_captions(split, tmp_path / "all.parquet") == 3
    table = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert {row["caption"]: row["text_embeds"] for row in table} == {"x": [1, 0], "y": [0, 1], "z": [-1, 0]}
    assert write_captions(split, tmp_path / "some.parquet", most=2) == 2
    with pytest.raises(ValueError, match="no embeddings of their own"):
        write_captions(Dataset.from_dict({"caption": ["x"], "text_embeds": [[]]}), tmp_path / "none.parquet")


def test_the_gallery_is_of_other_splits_and_of_different_classes(built, tmp_path):
    settings = json.loads((built[2] / "space.json").read_text())
    assert settings["gallery_is_new"] and len(settings["gallery"]) == 4  # all of `test`
    assert sorted(each["label"] for each in settings["gallery"][:3]) == NAMES
    assert sorted(settings["names"]) == NAMES
    small = Dataset.from_dict({"image": [picture(1)], "label": [None]}, features=None)
    gallery, is_new = write_gallery(
        DatasetDict(train=small.cast_column("image", Image())), {}, "train", tmp_path / "g"
    )
    assert gallery == [{"file": "01-picture.png", "label": None}] and not is_new


def test_a_picture_is_explained(built, explainer):
    path = str(next((built[2] / "gallery").iterdir()))
    classes, captions = explainer.look(path)
    assert set(classes) == set(NAMES) and sum(classes.values()) == pytest.approx(1)
    scores = [float(score) for score, _ in captions]
    assert len(captions) == 3 and scores == sorted(scores, reverse=True)
    assert {caption for _, caption in captions} == {f"a picture of {letter}" for letter in "abc"}
    named = explainer.by_names(path, "cat\n tench, Tinca tinca \n\n cat")
    assert set(named) == {"cat", "tench, Tinca tinca"} and sum(named.values()) == pytest.approx(1)
    assert named == {
        each["label"]: each["score"] for each in explainer.classifier(path, ["cat", "tench, Tinca tinca"])
    }


def test_visitors_at_the_same_time_do_not_disturb_each_other(built, explainer):
    paths = [str(path) for path in sorted((built[2] / "gallery").iterdir())]
    expected = {path: (explainer.look(path), explainer.by_names(path, "cat, dog")) for path in paths}
    turns = [(name, path) for path in paths for name in ("look", "by_names")] * 10
    with ThreadPoolExecutor(8) as threads:
        said = threads.map(
            lambda turn: getattr(explainer, turn[0])(turn[1], *["cat, dog"][: turn[0] != "look"]), turns
        )
        assert list(said) == [expected[path][name != "look"] for name, path in turns]


def test_what_a_visitor_can_mend_is_said(built, explainer, tmp_path, monkeypatch):
    good = str(next((built[2] / "gallery").iterdir()))
    with pytest.raises(VisitorError, match="There is no picture yet"):
        explainer.look(None)
    with pytest.raises(VisitorError, match="There is no picture yet"):
        explainer.by_names(None, "cat")
    (tmp_path / "text.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    picture(0).save(tmp_path / "picture.ppm")
    (tmp_path / "half.png").write_bytes(Path(good).read_bytes()[:200])
    for name in ("text.png", "picture.ppm", "half.png"):
        with pytest.raises(VisitorError, match="cannot be read as a picture: use PNG"):
            explainer.look(str(tmp_path / name))
    for names, message in {
        " \n ": "There are no names yet",
        "\n".join(map(str, range(201))): "These are 201 names: 200 at most",
        "x" * 201: "A name is too long",
    }.items():
        with pytest.raises(VisitorError, match=message):
            explainer.by_names(good, names)
    assert len(read_names("\n".join(map(str, range(200))))) == 200
    PILImage.new("1", (8000, 6000)).save(tmp_path / "wide.png")
    PILImage.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    for name in ("wide.png", "bomb.png"):
        with pytest.raises(VisitorError, match="40 megapixels at most"):
            explainer.look(str(tmp_path / name))
    monkeypatch.setattr("g4i_hf.hub.space_app.MOST_BYTES", 10)
    with pytest.raises(VisitorError, match="MB at most"):
        explainer.look(good)


def test_without_its_text_encoder_the_rest_works(built, tmp_path):
    space = shutil.copytree(built[2], tmp_path / "space")
    record = json.loads((space / "model" / "text_encoder.json").read_text())
    (space / "model" / "text_encoder.json").write_text(json.dumps(record | {"text_encoder": "nobody/nothing"}))
    explainer = Explainer(space, device="cpu")
    path = str(next((space / "gallery").iterdir()))
    assert len(explainer.look(path)[1]) == 3
    assert "nobody/nothing" in explainer.why_no_names
    with pytest.raises(VisitorError, match="text encoder could not be loaded"):
        explainer.by_names(path, "cat")


def test_every_import_within_the_copied_code_is_copied(built):
    package = built[2] / "g4i_hf"
    checked = 0
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                place = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                names = [place] if node.module else [place / alias.name for alias in node.names]
                for name in names:
                    found = name.with_suffix(".py").is_file() or (name / "__init__.py").is_file()
                    assert found or name.name.startswith("__"), f"{path}: {ast.unparse(node)}"
                    checked += found
    assert checked > 30


@pytest.mark.slow
def test_the_copied_code_is_enough(built, explainer):
    """A process that starts in the folder of the app imports its copy of the package, and says the same."""
    path = str(next((built[2] / "gallery").iterdir()))
    script = "import json, sys, app, g4i_hf; e = app.Explainer('.', device='cpu'); app.build_demo(e); "
    script += "print(json.dumps([g4i_hf.__file__, e.look(sys.argv[1]), e.by_names(sys.argv[1], 'cat, dog')]))"
    command = [sys.executable, "-B", "-c", script, path]
    done = subprocess.run(command, cwd=built[2], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    place, (classes, captions), named = json.loads(done.stdout.splitlines()[-1])
    assert Path(place).is_relative_to(built[2])
    assert classes == pytest.approx(explainer.look(path)[0]) and captions == explainer.look(path)[1]
    assert named == pytest.approx(explainer.by_names(path, "cat, dog"))
    assert not list(built[2].rglob("*.pyi"))


def test_what_cannot_become_a_space_is_said(built, tmp_path):
    root, run, space = built
    baseline = write_run(root / "baseline", align_weight=0)
    with pytest.raises(ValueError, match=r"baseline is a baseline.*align_weight above 0"):
        build_space(baseline, run / "student", tmp_path / "space")
    plain = release_student(run, tmp_path / "plain", aligned=False)
    with pytest.raises(ValueError, match=r"plain has no aligned/.*--aligned true"):
        build_space(run, plain, tmp_path / "space")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(ValueError, match="something else than an app"):
        build_space(run, run / "student", tmp_path / "mine")
    without = write_run(root / "without", text_encoder="null")
    with pytest.raises(ValueError, match="has no captions with embeddings"):
        build_space(without, run / "student", tmp_path / "space")
    assert not (tmp_path / "space").exists() and (tmp_path / "mine" / "letter.txt").exists()


def said(space: Path) -> str:
    return " ".join((space / "README.md").read_text().split())


def test_the_data_whose_terms_hold_is_named(built, tmp_path):
    _, run, space = built
    assert "those of the data set of the student, whose terms hold for them" in said(space)  # nothing is recorded
    sources = [
        {"name": "embeddings", "stage": "embedding", "images": False},
        {"id": "me/captions", "stage": "captioning", "images": False},
        {"name": "photos", "images": True},
    ]
    (tmp_path / "lineage.json").write_text(json.dumps({"sources": sources}))
    settings = {"title": "t", "gallery": [], "gallery_is_new": True}
    card = _card(run / "student", None, settings, 3, "6.0.0", _data(tmp_path))
    named = "[me/captions](https://huggingface.co/datasets/me/captions) and `photos`"
    assert f"those of {named}, whose terms hold for them" in card.text


def test_an_encoder_that_is_not_on_the_hub_is_not_said_to_be_downloaded(built, tmp_path, caplog, monkeypatch):
    """And nothing is loaded by the bare name of its folder, which is that of another encoder there."""
    _, run, space = built
    assert f"the text encoder `{MINILM}` is downloaded once." in said(space)
    assert "switched off" not in said(space) and "by their names alone" in said(space)
    student = shutil.copytree(run / "student", tmp_path / "student")
    record = student / "aligned" / "text_encoder.json"
    for known, warning, off in (
        (
            {"text_encoder": "all-MiniLM-L6-v2", "text_encoder_digest": "blake2b:00"},
            "'all-MiniLM-L6-v2', no Hub id",
            "the text encoder of the captions, `all-MiniLM-L6-v2`, was a local folder of its maker and is not among",
        ),
        (None, "is not known, no Hub id", "it is not known which text encoder"),
    ):
        record.write_text(json.dumps(known)) if known else record.unlink()
        with caplog.at_level(logging.WARNING):
            build_space(run, student, tmp_path / "space")
        assert warning in caplog.text
        text = said(tmp_path / "space")
        assert f"Classes by their names are switched off: {off}" in text
        assert "downloaded" not in text and "None" not in text and "by their names alone" not in text
    monkeypatch.setattr("g4i_hf.zero_shot.checkpoint.load_encoder", lambda *_, **__: pytest.fail("it was loaded"))
    (tmp_path / "space" / "model" / "text_encoder.json").write_text(
        '{"text_encoder": "all-MiniLM-L6-v2", "text_encoder_digest": "blake2b:00"}'
    )
    assert "in a local folder, 'all-MiniLM-L6-v2'" in Explainer(tmp_path / "space", device="cpu").why_no_names
    with caplog.at_level(logging.WARNING):
        build_space(run, run / "student", tmp_path / "space")  # an app is replaced
    assert MINILM in said(tmp_path / "space")

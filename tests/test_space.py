"""The Gradio app of a student: its folder, its functions, its page in a browser, and what its server gives away."""

import ast
import json
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from huggingface_hub import SpaceCard
from PIL import Image as PILImage
from PIL import ImageCms
from PIL.PngImagePlugin import PngInfo
from space_browser import browser_page, running
from students import STUDENTS

from g4i_hf import AlignedImageClassification
from g4i_hf.embedding import load_encoder
from g4i_hf.hub import release_student
from g4i_hf.hub.privacy import check_publishable
from g4i_hf.hub.space import build_space, write_captions, write_gallery
from g4i_hf.hub.space_app import Explainer, VisitorError, build_demo
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
            size = 700 if split == "test" and number == 0 else 24
            picture(number, size).save(path, pnginfo=info, exif=exif, icc_profile=PROFILE)
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
def built(tmp_path_factory) -> tuple[Path, Path]:
    """A run, and the app of its student."""
    root = tmp_path_factory.mktemp("space")
    write_data(root / "data")
    run = write_run(root / "run")
    sources = [{"id": "me/captions", "stage": "captioning", "images": False}, {"name": "photos", "images": True}]
    (run / "lineage.json").write_text(json.dumps({"sources": sources}))
    student = release_student(run)
    (student / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A student\n")
    return run, build_space(run, student, run / "space", repo_id="ann/things")


@pytest.fixture(scope="module")
def explainer(built):
    return Explainer(built[1], device="cpu")


def page_of(space: Path) -> str:
    return " ".join((space / "README.md").read_text().split())


# --- The folder ------------------------------------------------------------------------------------------------------


def test_the_folder_is_a_space(built):
    space = built[1]
    names = {
        ".g4i_hf.json",
        "app.py",
        "README.md",
        "requirements.txt",
        "space.json",
        "captions.parquet",
        "g4i_hf",
        "gallery",
        "model",
    }
    assert {path.name for path in space.iterdir()} == names
    data = SpaceCard.load(space / "README.md").data.to_dict()
    assert (data["sdk"], data["app_file"], data["license"]) == ("gradio", "app.py", "cc-by-4.0")
    assert data["models"] == ["ann/things"] and re.fullmatch(r"\d+\.\d+\.\d+", data["sdk_version"])
    assert len(data["short_description"]) <= 60  # the Hub refuses more
    page = page_of(space)
    assert "3 distinct captions" in page and f"the text encoder `{MINILM}` is downloaded once." in page
    named = "[me/captions](https://huggingface.co/datasets/me/captions) and `photos`"
    assert f"those of {named}, whose terms hold for them" in page and "switched off" not in page


def test_the_copied_code_is_whole_and_its_requirements_are_pinned(built):
    """No index has the package, so the app has a copy of what it imports."""
    space, called = built[1], {"PIL": "pillow", "yaml": "pyyaml", "sentence_transformers": "sentence-transformers"}
    lines = (space / "requirements.txt").read_text().split()
    assert all(re.fullmatch(r"[\w-]+==[\d.]+(post\d+)?", line) for line in lines)
    required, imported, copied = {line.split("==")[0] for line in lines}, set(), 0
    for path in space.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.split(".")[0])
            elif isinstance(node, ast.ImportFrom):
                place = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                for name in [place] if node.module else [place / alias.name for alias in node.names]:
                    found = name.with_suffix(".py").is_file() or (name / "__init__.py").is_file()
                    assert found or name.name.startswith("__"), f"{path}: {ast.unparse(node)}"
                    copied += found
    # tqdm and httpx2 come with huggingface_hub, tokenizers with transformers; peft is for runs that train adapters
    brought = {"g4i_hf", "tqdm", "httpx2", "tokenizers", "peft", *sys.stdlib_module_names}
    assert copied > 30 and {called.get(name, name) for name in imported} - brought <= required


def test_nothing_of_this_machine_and_no_metadata_is_in_it(built):
    run, space = built
    check_publishable(space)
    for path in filter(Path.is_file, space.rglob("*")):
        content = path.read_bytes()
        for canary in (str(run.parent), str(ROOT), str(Path.home()) + "/", sys.prefix, CANARY):
            assert canary.encode() not in content, path
    for path in (space / "gallery").iterdir():
        with PILImage.open(path) as image:
            assert image.format == "PNG" and not image.info and not image.getexif() and max(image.size) <= 512


def test_captions_are_distinct_and_their_vectors_are_the_encoders(built, tmp_path):
    table = pq.read_table(built[1] / "captions.parquet")
    captions = table["caption"].to_pylist()
    assert captions == ["a picture of a", "a picture of b", "a picture of c"]
    assert str(table.schema.field("text_embeds").type.value_type) == "halffloat"
    vectors = np.asarray(table["text_embeds"].to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(vectors, load_encoder(MINILM).encode(captions), atol=1e-3)
    rows = {
        "caption": [["x", "y"], ["y", " "], [], None, ["z"]],
        "text_embeds": [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0]], [], None, [[-1.0, 0.0]]],
    }
    assert write_captions(Dataset.from_dict(rows), tmp_path / "all.parquet") == 3
    table = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert {row["caption"]: row["text_embeds"] for row in table} == {"x": [1, 0], "y": [0, 1], "z": [-1, 0]}
    assert write_captions(Dataset.from_dict(rows), tmp_path / "some.parquet", most=2) == 2


def test_the_gallery_holds_no_training_image(built, tmp_path):
    run, space = built
    settings = json.loads((space / "space.json").read_text())
    shown = {np.asarray(PILImage.open(path)).tobytes() for path in (space / "gallery").iterdir()}
    training = {np.asarray(picture(number)).tobytes() for number in range(5)}
    test = {np.asarray(picture(number)).tobytes() for number in range(1, 4)}  # the first one is shrunk
    assert settings["gallery_is_new"] and len(shown) == 4 and test <= shown
    assert not shown & (training - test)
    small = Dataset.from_dict({"image": [picture(1)], "label": [None]}).cast_column("image", Image())
    gallery, is_new = write_gallery(DatasetDict(train=small), {}, "train", tmp_path / "g")
    assert gallery == [{"file": "01-picture.png", "label": None}] and not is_new


def test_what_cannot_become_a_space_is_said(built, tmp_path):
    run, _ = built
    baseline = write_run(run.parent / "baseline", align_weight=0)
    without = write_run(run.parent / "without", text_encoder="null")
    plain = release_student(run, tmp_path / "plain", aligned=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    for of_run, student, place, message in (
        (baseline, run / "student", "space", r"baseline is a baseline.*align_weight above 0"),
        (run, plain, "space", r"run has no aligned/.*--aligned true"),
        (run, run / "student", "mine", "holds no Space"),
        (without, run / "student", "space", "has no captions with embeddings"),
    ):
        with pytest.raises(ValueError, match=message):
            build_space(of_run, student, tmp_path / place)
    assert not (tmp_path / "space").exists() and (tmp_path / "mine" / "letter.txt").exists()


def test_an_app_without_gradio_names_the_requirements_beside_it(monkeypatch):
    """Who runs it has its folder, and no clone of g4i_hf."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match="pip install -r requirements.txt"):
        build_demo(None)


@pytest.mark.parametrize("known", ["a folder", "unknown"])
def test_an_encoder_that_is_not_on_the_hub_is_neither_promised_nor_loaded(built, tmp_path, caplog, known):
    """By the bare name of its folder, another encoder would be loaded there."""
    run, _ = built
    student = shutil.copytree(run / "student", tmp_path / "student")
    record = student / "aligned" / "text_encoder.json"
    if known == "a folder":
        record.write_text('{"text_encoder": "all-MiniLM-L6-v2", "text_encoder_digest": "blake2b:00"}')
        off = "the text encoder of the captions, `all-MiniLM-L6-v2`, was a local folder of its maker and is not among"
    else:
        record.unlink()
        off = "it is not known which text encoder"
    space = build_space(run, student, tmp_path / "space")
    assert "no Hub id: in a Space the box for names says that it cannot be loaded" in caplog.text
    page = page_of(space)
    assert f"Zero-shot classes are switched off: {off}" in page and "downloaded" not in page
    explainer, image = Explainer(space, device="cpu"), str(next((space / "gallery").iterdir()))
    assert explainer.why_no_names and len(explainer.look(image)[1]) == 3
    with pytest.raises(VisitorError, match="text encoder could not be loaded"):
        explainer.by_names(image, "cat")


# --- Its functions ---------------------------------------------------------------------------------------------------


def test_a_picture_is_explained(built, explainer):
    path = str(next((built[1] / "gallery").iterdir()))
    classes, captions = explainer.look(path)
    assert set(classes) == set(NAMES) and sum(classes.values()) == pytest.approx(1)
    scores = [float(score) for score, _ in captions]
    assert len(captions) == 3 and scores == sorted(scores, reverse=True)
    assert {caption for _, caption in captions} == {f"a picture of {letter}" for letter in "abc"}
    named = explainer.by_names(path, "cat\n tench, Tinca tinca \n\n cat")
    expected = explainer.classifier(path, ["cat", "tench, Tinca tinca"])
    assert named == {each["label"]: each["score"] for each in expected} and sum(named.values()) == pytest.approx(1)


def test_visitors_at_the_same_time_do_not_disturb_each_other(built, explainer):
    paths = [str(path) for path in sorted((built[1] / "gallery").iterdir())]
    expected = {path: (explainer.look(path), explainer.by_names(path, "cat, dog")) for path in paths}
    turns = [(path, by_names) for path in paths for by_names in (False, True)] * 10

    def ask(turn):
        path, by_names = turn
        return explainer.by_names(path, "cat, dog") if by_names else explainer.look(path)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, turns)) == [expected[path][by_names] for path, by_names in turns]


def test_what_a_visitor_can_mend_is_said(built, explainer, tmp_path, monkeypatch):
    good = str(next((built[1] / "gallery").iterdir()))
    (tmp_path / "text.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    picture(0).save(tmp_path / "picture.ppm")
    (tmp_path / "half.png").write_bytes(Path(good).read_bytes()[:200])
    PILImage.new("1", (8000, 6000)).save(tmp_path / "wide.png")
    PILImage.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    messages = dict.fromkeys(("text.png", "picture.ppm", "half.png"), "cannot be read as a picture: use PNG")
    for name, message in (messages | dict.fromkeys(("wide.png", "bomb.png"), "40 megapixels at most")).items():
        with pytest.raises(VisitorError, match=message):
            explainer.look(str(tmp_path / name))
    for image, names, message in (
        (None, "cat", "There is no picture yet"),
        (good, " \n ", "There are no names yet"),
        (good, "\n".join(map(str, range(201))), "These are 201 names: 200 at most"),
        (good, "x" * 201, "A name is too long"),
    ):
        with pytest.raises(VisitorError, match=message):
            explainer.by_names(image, names)
    monkeypatch.setattr("g4i_hf.hub.space_app.MOST_BYTES", 10)
    with pytest.raises(VisitorError, match="MB at most"):
        explainer.look(good)


# --- Its page --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(built, tmp_path_factory):
    with running(built[1], tmp_path_factory.mktemp("home")) as address:
        yield address


@pytest.mark.slow
def test_the_page_explains_uploaded_pictures_and_classifies_by_names(built, address, explainer, tmp_path):
    gallery = sorted((built[1] / "gallery").iterdir())
    with browser_page(viewport={"width": 1200, "height": 1100}) as (page, outside):
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        classify = page.get_by_role("button", name="Classify by these names")

        def shown(path: Path) -> None:
            """Waits for what the functions say of a picture."""
            classes, captions = explainer.look(str(path))
            page.locator("#classes h2", has_text=max(classes, key=classes.get)).wait_for()
            for score, caption in captions:
                page.locator("#captions", has_text=caption).wait_for()
                assert score in page.locator("#captions").inner_text()

        shown(gallery[0])  # there is an answer at once
        # 1. A picture of one's own: the one before goes, and with it what was said of it
        page.get_by_role("button", name="Remove Image").click()
        page.locator("#classes h2").wait_for(state="detached")
        classify.click()
        page.get_by_text("There is no picture yet").wait_for()
        page.locator("#picture input[type=file]").set_input_files(gallery[3])
        shown(gallery[3])
        # 2. Classes by their names
        page.locator("#names textarea").fill("sandwich\n<b>wheelchair</b>\nguitar")
        classify.click()
        page.locator("#named", has_text="<b>wheelchair</b>").wait_for()  # text, not markup
        named = explainer.by_names(str(gallery[3]), "sandwich\n<b>wheelchair</b>\nguitar")
        assert page.locator("#named h2").inner_text() == max(named, key=named.get)
        # 3. What a visitor does wrong
        page.locator("#names textarea").fill(" \n ")
        classify.click()
        page.get_by_text("There are no names yet").wait_for()
        (tmp_path / "broken.png").write_text("no picture")
        page.get_by_role("button", name="Remove Image").click()
        page.locator("#picture input[type=file]").set_input_files(tmp_path / "broken.png")
        page.get_by_text("This file cannot be read as a picture").wait_for()
        assert outside == [] and errors == []


@pytest.mark.slow
def test_the_app_serves_no_file_but_what_it_shows(built, address):
    space = built[1]
    payload, own = {"meta": {"_type": "gradio.FileData"}}, next((space / "gallery").iterdir())

    def answer(path: str) -> str:
        called = client.post("/gradio_api/call/by_names", json={"data": [payload | {"path": path}, "cat\ndog"]})
        return client.get(f"/gradio_api/call/by_names/{called.json()['event_id']}").text

    with httpx2.Client(base_url=address, timeout=60) as client:
        sent = client.post("/gradio_api/upload", files={"files": ("a.png", own.read_bytes(), "image/png")}).json()[0]
        assert "event: complete" in answer(sent)  # this is how it works, and
        for path in (str(own), str(space / "app.py"), "/etc/passwd", "../../etc/passwd", f"{sent}/../../.."):
            assert "event: error" in answer(path), path
            assert client.get(f"/gradio_api/file={path}").status_code in (403, 404), path
        large = client.post("/gradio_api/upload", files={"files": ("a.png", bytes(11_000_000), "image/png")})
        assert large.status_code == 413
    listening = (Path("/proc/net/tcp").read_text() if Path("/proc/net/tcp").exists() else "").splitlines()
    port = f":{int(address.rsplit(':', 1)[1]):04X}"
    bound = {line.split()[1] for line in listening if line.split()[1].endswith(port) and line.split()[3] == "0A"}
    assert bound <= {"0100007F" + port}  # 127.0.0.1

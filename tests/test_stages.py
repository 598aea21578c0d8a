"""
Stages: columns joined to images by `image_id`, folders that move together and are replaced as a whole, and stages that
name other stages; names and paths, and models in folders.
"""

import json
import signal
import subprocess
from pathlib import Path

import make
import pytest
from caption_doors import WORKERS
from datasets import Dataset, DatasetDict, List, Value
from loaded import PYTHON

from g4i_hf import load_images
from g4i_hf.data import joining
from g4i_hf.data.loading import open_images
from g4i_hf.data.stage import read_stage, write_stage
from g4i_hf.files import replacing, restore_replaced
from g4i_hf.names import folder_digest, is_path

CAPTIONS = [f"caption {i}" for i in range(4)]


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of images with ids 0 to 3 of `train` and a, b of `test`, the former with embeddings of one number."""
    train = make.rows(4, image_id=list("0123"), caption=CAPTIONS, text_embeds=[[0.0]] * 4)
    DatasetDict(train=train, test=make.rows(2, image_id=list("ab"))).save_to_disk(tmp_path / "images")
    return tmp_path / "images"


def stage_of(images: Path, ids: str, **columns) -> Path:
    """A stage beside the images, with an embedding that tells which id it belongs to."""
    embeds = [[float(ord(image_id)), 0.5] for image_id in ids]
    train = make.rows(len(ids), image=None, label=None, image_id=list(ids), text_embeds=embeds, **columns)
    write_stage(images.with_name("stage"), {"train": train}, {"stage": "embedding", "source": "../images"})
    return images.with_name("stage")


@pytest.mark.parametrize("ids", ["0123", "3102", "9031x2"], ids=["same order", "other order", "more rows"])
def test_a_stage_is_joined_by_image_id_and_no_image_is_copied(images, ids):
    before = {path: path.stat().st_mtime_ns for path in images.rglob("*")}
    splits = load_images(stage_of(images, ids))
    assert splits["train"]["image_id"][:] == list("0123")
    assert [embed[0] for embed in splits["train"]["text_embeds"]] == [float(ord(i)) for i in "0123"]
    assert splits["train"].features["text_embeds"] == List(Value("float16"), length=2)
    assert splits["train"]["caption"][:] == CAPTIONS
    assert "text_embeds" not in splits["test"].column_names  # the stage has no such split
    # The joined table still lies in the file of the images
    files = {file["filename"] for file in splits["train"].cache_files}
    assert str(next((images / "train").glob("*.arrow"))) in files
    assert {path: path.stat().st_mtime_ns for path in images.rglob("*")} == before


def test_a_stage_that_does_not_fit_is_an_error(images):
    missing = r"split 'train': 1 of 4 images have no row there, the first is '3'. Make it again: g4i caption"
    twice = r"Split 'train', column 'image_id', row 4: '2', which row 2 has too"
    for ids, message in (("012", missing), ("01232", twice)):
        with pytest.raises(ValueError, match=message):
            open_images(str(stage_of(images, ids)))


def test_a_stage_moves_together_with_its_images_and_else_says_where_they_were(images, tmp_path):
    stage_of(images, "0123")
    (tmp_path / "moved").mkdir()
    for name in ("images", "stage"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert "text_embeds" in open_images(str(tmp_path / "moved" / "stage"))["train"].column_names
    (tmp_path / "moved" / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"those of \.\./images, .*that folder is gone. Put it back"):
        open_images(str(tmp_path / "moved" / "stage"))


def test_the_format_is_written_and_another_one_is_not_guessed_at(images):
    folder = stage_of(images, "0123")
    stage = read_stage(folder)
    assert stage["format"] == 1
    for other in (2, "next", None):
        (folder / "stage.json").write_text(json.dumps(stage | {"format": other}))
        with pytest.raises(ValueError, match=rf"stage.json has the format {other!r}, .*reads format 1. Run the stage"):
            open_images(str(folder))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (["x"] * 4, "column 'text_embeds' holds Value('string'), not vectors of one length"),
        ([[1.0, 2.0]] * 3 + [[1.0]], "column 'text_embeds' holds List(Value('float64')), not vectors of one length"),
        (None, "no column 'text_embeds'"),
    ],
)
def test_a_stage_with_other_columns_than_were_written_names_its_file(images, values, says):
    file = stage_of(images, "0123") / "train.parquet"
    table = {"image_id": list("0123")} | ({"text_embeds": values} if values else {"other": list("0123")})
    Dataset.from_dict(table).to_parquet(file)
    with pytest.raises(ValueError) as error:
        open_images(str(file.parent))
    assert str(error.value) == f"{file}: {says}. Make the stage again."


def test_a_stage_never_replaces_a_folder_of_other_things(tmp_path):
    make.folder(tmp_path, ["cat/1.png"])
    with pytest.raises(ValueError, match="holds no stage. It would be deleted: choose another folder"):
        write_stage(tmp_path, {"train": Dataset.from_dict({"image_id": ["a"]})}, {})
    assert (tmp_path / "cat" / "1.png").is_file()


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "old.txt").write_text("earlier")
    return tmp_path / "made"


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_new_folder_takes_the_place_of_the_earlier_one_also_behind_a_link(place):
    link = place.with_name("link")
    link.symlink_to(place)
    for target in (place, place.parent / "deep" / "fresh", link):
        with replacing(target) as folder:
            assert names(folder) == []
            restore_replaced(target)  # what a running process writes is left alone
            (folder / "new.txt").write_text("later")
        assert names(target) == ["new.txt"]
    assert link.is_symlink() and sorted(path.name for path in place.parent.iterdir()) == ["deep", "link", "made"]


def test_after_an_error_or_where_the_new_folder_cannot_be_moved_the_earlier_one_is_there(place, monkeypatch):
    with pytest.raises(KeyboardInterrupt), replacing(place) as folder:
        (folder / "new.txt").touch()
        raise KeyboardInterrupt
    assert names(place.parent) == ["made", "made/old.txt"]
    rename = Path.rename

    def full(path: Path, target: Path) -> Path:
        if ".tmp-" in path.name:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"), replacing(place) as folder:
        (folder / "new.txt").touch()
    assert names(place.parent) == ["made", "made/old.txt"]


REPLACES = """
from g4i_hf.files import replacing
with replacing(sys.argv[1]) as folder:
    (folder / "new.txt").touch()
"""


@pytest.mark.parametrize("move", [1, 2])
def test_after_a_kill_the_earlier_folder_is_back_and_nothing_else_is_left(place, move):
    """Before the earlier folder is moved away, or before the new one is moved to its place."""
    ended = subprocess.run([PYTHON, WORKERS / "deadly.py", "pathlib:Path.rename", str(move), REPLACES, place])
    assert ended.returncode == -signal.SIGKILL
    assert len(list(place.parent.iterdir())) == 2 and place.exists() == (move == 1)
    restore_replaced(place)  # as whoever opens it does first
    assert names(place.parent) == ["made", "made/old.txt"]


def test_stages_that_name_each_other_have_no_images_unless_one_holds_them(tmp_path, monkeypatch):
    """Folders in the working folder stand for data sets of the Hub."""
    monkeypatch.chdir(tmp_path)
    stage = {"stage": "captioning", "captioner": {"captioner": "column"}, "published": True}
    for name, further in (("me/a", "me/./b"), ("me/b", "me/a")):
        rows = make.rows(4, image=None, label=None, caption=CAPTIONS)
        write_stage(name, {"train": rows}, stage | {"source": further})
    with pytest.raises(ValueError, match="holds no images and names .*, which leads back to .*captions_name me/"):
        load_images("me/a")
    write_stage("me/b", {"train": make.rows(4, caption=CAPTIONS)}, stage | {"source": "me/a", "with_images": True})
    assert load_images("me/b")["train"]["caption"][:] == CAPTIONS


PATHS = ["/home/x", "~/x", "~ann/x", "./x", "../x", ".cache/x", ".", "..", "~", "C:\\x", "D:/x", "file:///x"]
OTHERS = ["me/x", "x", "x-1.5", "Is it a cat/dog?", "... and then?", "~5 words", "", None, 3]


@pytest.mark.parametrize("name", [*PATHS, *OTHERS])
def test_paths_are_known_by_their_form_alone(name):
    """Nothing that has it is published."""
    assert is_path(name) == (name in PATHS)


def test_a_model_in_a_folder_is_another_when_what_its_outputs_depend_on_changes(tmp_path):
    """Its weights, settings, vocabulary or code; not its page, nor what a run has written into folders of it."""
    model = tmp_path / "model"
    for name in ("config.json", "model.safetensors", "vocab.txt", "modeling.py", "runs/a/train.yaml"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("before")
    digest = folder_digest(model)
    for name in ("README.md", ".cache/config.json", "runs/a/config.json"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("more")
    assert folder_digest(model) == digest
    for name in ("config.json", "model.safetensors", "vocab.txt", "modeling.py"):
        (model / name).write_text("behind")
        assert folder_digest(model) != digest, name
        (model / name).write_text("before")


# --- Captions of one dataset joined to the images of another, with `captions_name` -----------------------------------

IDS = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]
FILES = [f"{split}/{image_id}" for split in ("train", "test") for image_id in IDS]
EMBEDS = List(Value("float16"), length=3)


def captions_of(ids: list[str | None], **more) -> Dataset:
    """Caption and embedding of each id; the embedding of the n-th of IDS holds n."""
    embeds = [[float(IDS.index(each) if each in IDS else 9)] * 3 for each in ids]
    columns = {"image": None, "label": None, "image_id": ids, "caption": [f"of {each}" for each in ids]}
    return make.rows(len(ids), **columns | {"text_embeds": embeds} | more)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """An imagefolder with a train and a test split of two classes."""
    return make.folder(tmp_path / "pictures", FILES)


def save_captions(folder: Path, ids: list[str | None], split: str = "train", **more) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    captions_of(ids, **more).to_parquet(folder / f"{split}.parquet")
    return str(folder)


@pytest.mark.parametrize("limit", [0, 1 << 26], ids=["on disk", "in memory"])
def test_each_image_gets_its_own_caption_or_a_null(pictures, tmp_path, limit, monkeypatch, caplog):
    monkeypatch.setattr(joining, "IN_MEMORY", limit)
    ids = ["gone/1.png", IDS[3], IDS[1], IDS[0]]
    splits = load_images(pictures, captions_name=save_captions(tmp_path / "captions", ids))
    assert "caption" not in splits["test"].column_names and len(splits["test"]) == 4  # there are none of it
    assert splits["train"].features["text_embeds"] == EMBEDS
    for number, row in enumerate(splits["train"]):
        assert row["image_id"] == IDS[number] and Path(row["image"]["path"]).match(f"train/{IDS[number]}")
        has = IDS[number] in ids
        assert row["caption"] == (f"of {IDS[number]}" if has else None)
        assert row["text_embeds"] == ([number] * 3 if has else None)
    for said in (
        "split 'train': 1 of 4 images have no row there and are used without caption: 'dog/1.png'",
        "split 'train': 1 of 4 rows there belong to no image and are left out: 'gone/1.png'",
        "no captions of the splits test; they are kept without",
    ):
        assert said in caplog.text


@pytest.mark.parametrize(
    "ids, split, message",
    [
        (["a.png", "b.png"], "train", r"'train': no image_id there.* is 'a.png', that .*'cat/1.png'.*image_id_c"),
        ([IDS[0], IDS[1], IDS[0]], "train", r"captions: Split 'train'.* row 2: 'cat/1.png', which row 0 has too"),
        ([IDS[0], None], "train", "captions: Split 'train', column 'image_id', row 1: null"),
        (IDS, "evening", "has captions of the splits evening, but the images have test, train"),
    ],
)
def test_captions_that_do_not_fit_are_an_error(pictures, tmp_path, ids, split, message):
    with pytest.raises(ValueError, match=message):
        load_images(pictures, captions_name=save_captions(tmp_path / "captions", ids, split))


@pytest.mark.parametrize("way", ["captions_name", "stage"])
def test_vectors_and_raw_answers_of_other_captions_are_not_kept(tmp_path, way):
    """Of images in Parquet beside earlier captions, in two splits, of which one gets new captions."""
    embedded, captions, new = tmp_path / "embedded", tmp_path / "captions", [f"new {i}" for i in IDS]
    for name in ("train", "test"):
        save_captions(embedded, IDS, name, image=[make.stored(make.noise())] * 4, caption_raw=["OLD"] * 4)
    about = {"stage": "captioning", "source": "../embedded" if way == "stage" else None}
    write_stage(captions, {"train": Dataset.from_dict({"image_id": IDS, "caption": new})}, about)
    loaded = load_images(captions) if way == "stage" else load_images(embedded, captions_name=str(captions))
    for name, split in loaded.items():
        assert split["caption"][:] == (new if name == "train" else [f"of {i}" for i in IDS])
        assert "text_embeds" not in split.column_names
        assert (name == "test") == ("caption_raw" in split.column_names)

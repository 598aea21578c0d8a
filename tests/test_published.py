"""Stages as datasets: what is published of them, what opens again by name, and that no row leads elsewhere."""

import io
import json
from pathlib import Path

import make
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value, load_dataset
from doors import files_in
from hub import serving
from huggingface_hub import HfApi
from test_stages import FILES, IDS, captions_of

from g4i_hf import load_images
from g4i_hf.data.loading import open_images
from g4i_hf.data.stage import Source, find_stage, read_stage, write_stage
from g4i_hf.hub.dataset import build_dataset
from g4i_hf.hub.push import push_folder
from g4i_hf.running import main

IMAGES = Features({"image": Image(decode=False), "image_id": Value("string")})


def stage_of(folder: Path, ids: list[str] = IDS, **more) -> Path:
    stage = {"stage": "embedding", "text_encoder": "org/encoder", "source": "../pictures"} | more
    write_stage(folder, {"train": captions_of(ids)}, stage)
    return folder


def upload(name: str, content: bytes | Dataset, path: str = "train.parquet") -> str:
    """Of a table without the images' bytes, which `to_parquet` would add."""
    if isinstance(content, Dataset):
        file, table = io.BytesIO(), content.data.table
        pq.write_table(table.replace_schema_metadata(content.features.arrow_schema.metadata), file)
        content = file.getvalue()
    api = HfApi()
    api.create_repo(name, repo_type="dataset", exist_ok=True)
    api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=name, repo_type="dataset")
    return name


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`pictures` of two classes, which were pushed in three ways; me/captions-of-WAY name them."""
    folder = tmp_path_factory.mktemp("published")
    pictures, stage = make.folder(folder / "pictures", FILES), stage_of(folder / "stage", IDS[::-1])
    with serving() as hub, hub.here():
        load_dataset("imagefolder", data_dir=str(pictures)).push_to_hub("me/rows", private=True)
        HfApi().create_repo("me/files", repo_type="dataset", private=True)
        HfApi().upload_folder(repo_id="me/files", folder_path=pictures, repo_type="dataset")  # as `hf upload`
        push_folder(build_dataset(stage, folder / "images", with_images=True), "me/images", "dataset")
        for way in ("rows", "files", "nothing"):
            push_folder(build_dataset(stage, folder / way, images_id=f"me/{way}"), f"me/captions-of-{way}", "dataset")
        (folder / "hub").write_text(hub.url)
        yield folder
        assert not [line for line in hub.log if "/secret.png" in line], "no trap was asked for"


def test_captions_of_the_hub_are_joined_to_their_images(folder):
    expected = [(i, int(i.startswith("dog")), f"of {i}", [float(number)] * 3) for number, i in enumerate(IDS)]
    to_a_folder = load_images(folder / "pictures", captions_name="me/captions-of-files")
    for splits in (open_images("me/captions-of-files"), open_images("me/images"), to_a_folder):
        columns = [splits["train"][name][:] for name in ("image_id", "label", "caption", "text_embeds")]
        assert list(zip(*columns, strict=True)) == expected
    assert load_dataset("me/captions-of-files")["train"].column_names == ["image_id", "caption", "text_embeds"]
    for name, revision in (("me/nothing", None), ("me/captions-of-files", "no-such-branch"), ("me/rows", None)):
        assert find_stage(name, revision) is None


def said_of(name: str | Source) -> str:
    with pytest.raises((ValueError, OSError)) as error:
        open_images(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_images_of_captions_are_known_by_files_or_a_column_of_ids(folder):
    """Rows of `push_to_hub` have lost the folders of their files; images of another name are nowhere."""
    said = said_of("me/captions-of-rows")
    assert "is 'dog/2.png', that of the images '1.png#" in said and "hf upload" in said and "a column image_id" in said
    assert "me/nothing" in said_of("me/captions-of-nothing")


# Rows that name, in place of an image, a file of whoever opens them or an address of its network
TRAPS = {
    "image": lambda place: Dataset.from_dict({"image": [{"bytes": None, "path": place}], "image_id": ["a"]}, IMAGES),
    "string": lambda place: Dataset.from_dict({"image": [place], "image_id": ["a"]}),
    "string without id": lambda place: Dataset.from_dict({"image": [place]}),
    "struct": lambda place: Dataset.from_dict({"image": [{"bytes": None, "path": place}], "image_id": ["a"]}),
    "json": lambda place: Dataset.from_dict({"json": [{"pic": {"bytes": None, "path": place}}], "image_id": ["a"]}),
}
FORMS = ["{folder}/secret.png", "file://{folder}/secret.png", "{hub}/secret.png", "hf://datasets/me/files/secret.png"]


@pytest.mark.parametrize("kind", TRAPS)
@pytest.mark.parametrize("form", FORMS, ids=["path", "file", "loopback", "hf"])
def test_a_row_of_the_hub_leads_neither_to_this_machine_nor_into_its_network(folder, kind, form):
    make.folder(folder, ["secret.png"])
    trap = TRAPS[kind](form.format(folder=folder, hub=(folder / "hub").read_text()))
    name = upload(f"me/trap-{kind.replace(' ', '-')}-{FORMS.index(form)}", trap)
    said = said_of(Source(name, columns={"image": "json.pic"} if kind == "json" else {}))
    assert "names the file" in said and "secret.png" in said


def test_files_beside_the_images_are_not_opened(folder):
    """A column of files that nothing asks for."""
    rows = {"image_id": ["a"], "more": [{"bytes": None, "path": "/secret.png"}], "image": [make.stored(make.noise())]}
    beside = Dataset.from_dict(rows, features=Features(IMAGES | {"more": Image(decode=False)}))
    assert set(open_images(upload("me/more", beside))["train"].column_names) == {"image_id", "image"}


def test_a_dataset_of_a_script_is_one_line(folder):
    said = said_of(upload("me/script", b"raise SystemExit('it ran')", "script.py"))
    assert "found script.py" in said and "--dataset_revision refs/convert/parquet" in said


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of one picture, and beside it one that nobody has named."""
    return make.folder(tmp_path, ["secret.png", "pictures/cat/1.png"]) / "pictures"


ELSEWHERE = ["../secret.png", "{}/secret.png", "cat/../../secret.png", "file://{}/secret.png", r"..\..\secret.png"]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_metadata_that_name_a_file_elsewhere_are_refused(pictures, tmp_path, name):
    lines = [{"file_name": "cat/1.png", "caption": "a"}, {"file_name": name.format(tmp_path), "caption": "b"}]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=r"pictures.*its files cannot be read: .*secret\.png"):
        open_images(str(pictures))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_every_field_of_metadata_is_checked(pictures, suffix):
    """Also where the card names the files."""
    rows = Dataset.from_dict({"file_name": ["1.png"], "mask_file_name": ["../../secret.png"]})
    getattr(rows, f"to_{suffix}")(pictures / "cat" / f"metadata.{suffix}")
    for card in ("", "---\nconfigs:\n- config_name: default\n  data_files: cat/*\n---\n"):
        (pictures / "README.md").write_text(card)
        with pytest.raises(ValueError, match=r"nvalid (metadata |mask_)file_name '../../secret\.png'"):
            open_images(str(pictures))


def test_a_stage_leads_to_what_lies_beside_it_and_nowhere_else(pictures, tmp_path):
    stage_of(tmp_path / "runs" / "captions", ["cat/1.png"], source="../../pictures")
    assert open_images(str(tmp_path / "runs" / "captions"))["train"]["caption"][:] == ["of cat/1.png"]
    for field in ("source", "captions_name"):
        for form in ("{}", "file://{}", "~"):
            stage = stage_of(tmp_path / "captions", ["cat/1.png"]) / "stage.json"
            stage.write_text(json.dumps(json.loads(stage.read_text()) | {field: form.format(pictures)}))
            with pytest.raises(ValueError, match="not relative to its folder"):
                open_images(str(tmp_path / "captions"))
    stage_of(tmp_path / "captions", ["cat/1.png"], published=True)  # downloaded: a path in it may be a trap
    with pytest.raises(ValueError, match="does not say where they are"):
        open_images(str(tmp_path / "captions"))


NO_STAGES = ["", "[]", "null", "{", '{"num_rows": 5}', '{"source": 5}', "[" * 100_000, "\udcff"]
NO_SPLITS = ["../secret", "/etc/passwd", "a/b", "", ".hidden", "a\nb"]
NO_STAGES += [json.dumps({"source": None, "num_rows": {name: 1}, "columns": []}) for name in NO_SPLITS]


@pytest.mark.parametrize("text", NO_STAGES, ids=lambda text: ascii(text[-40:]))
def test_a_stage_file_that_is_none_is_named_and_a_split_is_no_path(tmp_path, text):
    assert find_stage(str(tmp_path)) is None
    (tmp_path / "stage.json").write_bytes(text.encode(errors="surrogateescape"))
    for opened in (read_stage, lambda folder: build_dataset(folder, tmp_path / "out")):
        with pytest.raises(ValueError, match=r"stage\.json is not what a stage writes"):
            opened(tmp_path)


def test_the_card_says_that_the_prompt_told_the_class(tmp_path):
    said = "The prompt told the class, so captions hold it: no score on these rows may read them."
    for prompt in ("Describe the {label}.", "Describe it."):
        stage = {"stage": "captioning", "captioner": {"captioner": "local", "model": "me/vlm"}, "prompts": [prompt]}
        folder = build_dataset(stage_of(tmp_path / "stage", **stage), tmp_path / "out")
        assert (said in (folder / "README.md").read_text()) == ("{label}" in prompt)


def test_a_path_in_a_caption_ends_the_release(tmp_path, monkeypatch, capsys):
    """A captioner that repeats the name of the file it was given; nothing is asked of the Hub."""
    monkeypatch.setenv("HOME", "/home/ann")
    stage = stage_of(tmp_path / "stage", IDS)
    rows = captions_of(IDS).map(lambda row: {"caption": f"/home/ann/pictures/{row['image_id']} shows a cat."})
    write_stage(stage, {"train": rows}, read_stage(stage))
    before = files_in(tmp_path)
    for way in ("--dry_run", "--push_to_hub"):
        with pytest.raises(SystemExit) as ended:
            main(["release", "--stage", str(stage), "--repo_id", "me/captions", way, "true"])
        assert ended.value.code == 2
        assert "data/train-00000-of-00001.parquet holds a path of this machine" in capsys.readouterr().err
        assert way == "--push_to_hub" or files_in(tmp_path) == before

"""Captions that exist already: every way to name an image, lists in the order of files, and nothing guessed."""

import json
import random
import subprocess
import sys

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage
from torchvision.datasets import ImageFolder

from g4i_hf.captioning.existing import existing_captions
from g4i_hf.data.loading import open_images
from g4i_hf.options import ExistingCaptionsArguments


def splits(**image_ids) -> DatasetDict:
    return DatasetDict({name: Dataset.from_dict({"image_id": ids}) for name, ids in image_ids.items()})


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def from_file(data, path, **options):
    return existing_captions(data, ExistingCaptionsArguments(captions_file=str(path), **options))


def joined(tmp_path, data, lines, **options):
    """Joins (key, caption) pairs written as JSON lines."""
    text = "".join(json.dumps({"file": key, "caption": caption}) + "\n" for key, caption in lines)
    return from_file(data, written(tmp_path, "c.jsonl", text), **options)


def listed(tmp_path, data, captions):
    return from_file(data, written(tmp_path, "c.json", json.dumps(captions)))


def of_column(data):
    return existing_captions(data, ExistingCaptionsArguments())


# --- Which row a key means ---


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        ("image_id", "{folder}/{stem}.JPEG"),
        ("folder/file", "./imagenet/{folder}/{stem}.JPEG"),
        ("folder/file", "C:\\imagenet\\{folder}\\{stem}.JPEG"),
        ("split/file", "/data/train/{folder}/{stem}.JPEG"),
        ("file", "{stem}.JPEG"),
        ("file", "images/{stem}.JPEG"),
        ("folder/file", "{stem}_{folder}.JPEG"),  # as ILSVRC/imagenet-1k calls it
        ("folder/file without ending", "{folder}/{stem}.png"),
        ("file without ending", "{stem}"),
    ],
)
def test_ways_to_name_an_image(tmp_path, rule, key):
    names = [(f"n0000000{i % 3}", f"n0000000{i % 3}_{i}") for i in range(30)]
    data = splits(train=[f"{folder}/{stem}.JPEG" for folder, stem in names])
    lines = [(key.format(folder=folder, stem=stem), f"caption {stem}") for folder, stem in names]
    random.Random(0).shuffle(lines)
    result = joined(tmp_path, data, lines)
    assert result.report["matched_by"] == rule
    assert result.captions == {"train": [f"caption {stem}" for _, stem in names]}


def test_images_of_the_hub_are_found_by_their_first_names(tmp_path):
    """ILSVRC/imagenet-1k on the Hub has no class folders and adds the class to each name."""
    data = splits(
        train=["n01440764_10026_n01440764.JPEG", "n01440764_2_n01440764.JPEG"],
        validation=["ILSVRC2012_val_00000293_n01440764.JPEG"],
    )
    lines = [("n01440764/n01440764_2.JPEG", "two"), ("n01440764/n01440764_10026.JPEG", "ten")]
    lines += [("val/n01440764/ILSVRC2012_val_00000293.JPEG", "val")]
    result = joined(tmp_path, data, lines)
    assert result.captions == {"train": ["ten", "two"], "validation": ["val"]}


def test_one_rule_holds_for_the_whole_file(tmp_path):
    data = splits(train=["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/3.jpg"])
    lines = [("a/1.jpg", "A1"), ("a/2.jpg", "A2"), ("b/1.jpg", "B1"), ("3.jpg", "?")]
    result = joined(tmp_path, data, lines)
    assert result.report["matched_by"] == "image_id"  # the strictest of those that match three
    assert result.captions["train"] == ["A1", "A2", "B1", None]
    assert (result.report["captions_without_row"], result.report["ambiguous"]) == (1, 0)
    assert result.report["splits"]["train"] == {"rows": 4, "without_caption": 1}


def test_a_key_that_fits_several_rows_goes_to_none(tmp_path, caplog):
    data = splits(train=["a/1.jpg", "b/1.jpg", "b/2.jpg"])
    result = joined(tmp_path, data, [("1.jpg", "one"), ("2.jpg", "two")])
    assert result.captions["train"] == [None, None, "two"]
    assert (result.report["captions_without_row"], result.report["ambiguous"]) == (0, 1)
    assert "1 fit several and go to none ['1.jpg']" in caplog.text


def test_several_keys_for_one_row_go_to_none(tmp_path):
    data = splits(train=["1.jpg", "2.jpg"])
    result = joined(tmp_path, data, [("a/1.jpg", "one"), ("b/1.jpg", "another"), ("a/2.jpg", "two")])
    assert result.captions["train"] == [None, "two"]
    assert result.report["ambiguous"] == 2


def test_splits_with_equal_names_are_told_apart_by_their_folders(tmp_path):
    data = splits(train=["a/1.jpg", "a/2.jpg"], validation=["a/1.jpg"], test_novel=["a/1.jpg"])
    lines = [("x/val/a/1.jpg", "v1"), ("train/a/1.jpg", "t1"), ("train/a/2.jpg", "t2"), ("test_novel/a/1.jpg", "n1")]
    result = joined(tmp_path, data, lines)
    assert result.report["matched_by"] == "split/file"
    assert result.captions == {"train": ["t1", "t2"], "validation": ["v1"], "test_novel": ["n1"]}
    result = joined(tmp_path, data, [("a/1.jpg", "which?"), ("a/2.jpg", "t2")])
    assert result.captions == {"train": [None, "t2"], "validation": [None], "test_novel": [None]}
    assert result.report["ambiguous"] == 1


def test_files_of_one_name_have_content_in_their_ids(tmp_path):
    ids = [f"1.jpg#{'a' * 24}", f"1.jpg#{'b' * 24}", f"2.jpg#{'c' * 24}#2", "3#4.jpg"]
    result = joined(tmp_path, splits(train=ids), [("x/1.jpg", "?"), ("x/2.jpg", "two"), ("x/3#4.jpg", "three")])
    assert result.captions["train"] == [None, None, "two", "three"]
    assert result.report["ambiguous"] == 1


def test_ids_of_another_kind_leave_the_file_names_of_the_images(tmp_path):
    rows = {
        "image": [{"bytes": b"x", "path": f"/d/cat/{i}.jpg"} for i in range(3)],
        "image_id": ["0001", "0002", "0003"],
    }
    features = Features({"image": Image(decode=False), "image_id": Value("string")})
    data = DatasetDict(train=Dataset.from_dict(rows, features=features).select([2, 0, 1]))
    result = joined(tmp_path, data, [("cat/0.jpg", "zero"), ("cat/2.jpg", "two")])
    assert result.captions["train"] == ["two", "zero", None]
    result = joined(tmp_path, data, [("0001", "first"), ("0003", "third")])
    assert result.captions["train"] == ["third", "first", None]


def test_a_file_of_other_images_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"none of its 1 keys .* first keys are \['17'\], the first image_ids \['a/1.jpg'\]"
    ):
        joined(tmp_path, splits(train=["a/1.jpg"]), [("17", "x")])
    with pytest.raises(ValueError, match="c.csv: none of its 0 keys"):
        from_file(splits(train=["1.jpg"]), written(tmp_path, "c.csv", "file,caption\n"))


def test_reports_hold_no_paths(tmp_path):
    lines = [("/home/ann/data/train/a/1.jpg", "x"), ("/home/ann/data/train/a/9.jpg", "y")]
    report = joined(tmp_path, splits(train=["a/1.jpg"]), lines).report
    assert report["captions_without_row"] == 1
    assert "/home" not in json.dumps(report) and str(tmp_path) not in json.dumps(report)


# --- Duplicates, several captions ---


def test_repeated_lines_count_and_contradicting_ones_are_errors(tmp_path):
    data = splits(train=["1.jpg", "2.jpg", "3.jpg"])
    lines = [("1.jpg", "a"), ("2.jpg", ""), ("1.jpg", "a"), ("2.jpg", "b"), ("3.jpg", None)]
    result = joined(tmp_path, data, lines)
    assert result.captions["train"] == ["a", "b", None]
    with pytest.raises(ValueError, match=r"c.jsonl: '1.jpg' has another caption .*--several_captions"):
        joined(tmp_path, data, [*lines, ("1.jpg", "A")])


def test_several_captions_are_lists_in_every_row(tmp_path):
    data = splits(train=["1.jpg", "2.jpg", "3.jpg"], test=["4.jpg"])
    lines = [("1.jpg", "a"), ("2.jpg", "b"), ("1.jpg", "c"), ("1.jpg", "a"), ("4.jpg", "d")]
    result = joined(tmp_path, data, lines, several_captions=True)
    assert result.captions == {"train": [["a", "c"], ["b"], None], "test": [["d"]]}
    mixed = [("1.jpg", "a"), ("2.jpg", ["b", "c"]), ("1.jpg", "d")]  # the file holds lists: no option is needed
    assert joined(tmp_path, data, mixed).captions["train"] == [["a", "d"], ["b", "c"], None]


@pytest.mark.parametrize("caption", ["half \ud83d", ["whole", "half \udc00"], 3])
def test_what_is_no_text_is_refused_where_it_is_read(tmp_path, caption):
    with pytest.raises(ValueError, match="c.jsonl, key '1.jpg': the caption is .*; it must be text"):
        joined(tmp_path, splits(train=["1.jpg"]), [("1.jpg", caption)])


# --- Columns ---


def test_captions_of_a_column():
    data = splits(train=["1.jpg", "2.jpg"], test=["3.jpg"])
    with pytest.raises(ValueError, match="No column 'caption' in the data. Its columns: image_id"):
        of_column(data)
    data["train"] = data["train"].add_column("caption", ["a", " "])
    result = of_column(data)
    assert result.captions == {"train": ["a", None]}
    assert result.report["splits"] == {"train": {"rows": 2, "without_caption": 1}}
    data["test"] = data["test"].add_column("caption", [["b", "c"]], feature=List(Value("string")))
    assert of_column(data).captions == {"train": [["a"], None], "test": [["b", "c"]]}
    data["test"] = data["test"].remove_columns("caption").add_column("caption", [3])
    with pytest.raises(ValueError, match="Split 'test', column 'caption', row 0: the caption is 3; it must be text"):
        of_column(data)


# --- Lists without keys ---


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """Names whose order differs between Python, human and case-blind sorting."""
    root = tmp_path_factory.mktemp("data") / "train"
    for folder in ("b", "B", "a", "a b", "a-b", "n10", "n2", "ä"):
        (root / folder).mkdir(parents=True)
        for i, file in enumerate(("10.png", "2.png", "1.png", "a.PNG", "B.png", "a_1.png", "a.b.png", "é.jpg")):
            PILImage.new("RGB", (4, 4), (i, 7, 9)).save(root / folder / file)
    return root


def test_a_list_is_paired_in_the_order_of_torchvision(image_folder, tmp_path):
    theirs = [path for path, _ in ImageFolder(image_folder).samples]
    captions = ["/".join(path.split("/")[-2:]) for path in theirs]  # says which image it is of
    data = open_images(str(image_folder.parent))
    shuffled = DatasetDict(train=data["train"].shuffle(seed=1))
    for rows in (data, shuffled):
        result = listed(tmp_path, rows, captions)
        assert result.captions["train"] == rows["train"]["image_id"][:]
    assert shuffled["train"]["image_id"][:] != data["train"]["image_id"][:]
    assert result.report["order"] == "unverified" and result.report["split"] == "train"
    assert result.report["files_digest"] == listed(tmp_path, data, captions).report["files_digest"]
    fewer = DatasetDict(train=data["train"].select(range(1, len(captions))))
    assert listed(tmp_path, fewer, captions[1:]).report["files_digest"] != result.report["files_digest"]


def test_a_list_for_images_of_the_hub_uses_their_first_names(tmp_path):
    """With the class at its end, n1_10 comes before n1_1: `_` sorts after digits, `.` before."""
    data = splits(train=["n00000002_1_n00000002.JPEG", "n00000001_10_n00000001.JPEG", "n00000001_1_n00000001.JPEG"])
    assert listed(tmp_path, data, ["first", "second", "third"]).captions["train"] == ["third", "second", "first"]


def test_a_list_of_another_length_is_refused(tmp_path):
    data = splits(train=["a/1.jpg", "a/2.jpg"], test=["a/3.jpg"])
    with pytest.raises(
        ValueError, match="c.json holds 3 captions, the data has 2 train, 1 test images.*--caption_splits"
    ):
        listed(tmp_path, data, ["x", "y", "z"])
    assert listed(tmp_path, data, ["x", None]).captions == {"train": ["x", None]}
    with pytest.raises(ValueError, match="the data has 1 validation, 1 test images.*--caption_splits"):
        listed(tmp_path, splits(validation=["1.jpg"], test=["1.jpg"]), ["x"])
    assert listed(tmp_path, splits(test=["b/1.jpg"]), ["x"]).captions == {"test": ["x"]}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a/1.jpg", "0f" * 12], "row 1, image_id '0f0f.*no file name"),
        (["a/1.jpg#" + "a" * 24, "a/1.jpg#" + "b" * 24], "several files are called 'a/1.jpg'"),
        (["a/1.jpg", "2.jpg"], "some images have a class folder and others have none"),
    ],
)
def test_a_list_is_refused_where_the_order_of_files_is_unknown(tmp_path, ids, message):
    with pytest.raises(ValueError, match=message + ".*give captions with the names of their images"):
        listed(tmp_path, splits(train=ids), ["x", "y"])


def test_a_list_is_refused_where_classes_have_no_folders(tmp_path):
    def data(labels):
        rows = {"image_id": ["1.jpg", "2.jpg", "3.jpg"], "label": labels}
        features = Features({"image_id": Value("string"), "label": ClassLabel(names=["a", "b"])})
        return DatasetDict(train=Dataset.from_dict(rows, features=features))

    assert listed(tmp_path, data([1, 1, 1]), list("xyz")).captions["train"] == list("xyz")
    with pytest.raises(ValueError, match="of 2 classes, but in 1 folders"):
        listed(tmp_path, data([1, 0, 1]), list("xyz"))


def test_folders_inside_class_folders_are_refused(tmp_path):
    for name in ("a/z/1.png", "a/z/2.png", "b/a/1.png", "b/a/3.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        PILImage.new("RGB", (4, 4)).save(tmp_path / "data" / name)
    with pytest.raises(ValueError, match="/a and .*/b both have folders of images"):
        listed(tmp_path, open_images(str(tmp_path / "data")), ["x"] * 4)


# --- The whole ---


def test_options_say_where_captions_come_from(tmp_path):
    data = splits(train=["a/1.jpg", "a/2.jpg"])
    csv = written(tmp_path, "c.csv", "name,file,caption,other\nn,a/2.jpg,two,zwei\nn,a/2.jpg,deux,x\n")
    with pytest.raises(ValueError, match="another caption"):
        from_file(data, csv)
    assert from_file(data, csv, several_captions=True).captions == {"train": [None, ["two", "deux"]]}
    text = written(tmp_path, "c.txt", "one\ntwo\n")
    assert from_file(data, text).captions["train"] == ["one", "two"]
    data = DatasetDict(train=data["train"].add_column("caption", ["x", "y"]))
    assert of_column(data).report["from"] == "column"
    with pytest.raises(ValueError, match="captioner is 'file': name the file"):
        existing_captions(data, ExistingCaptionsArguments(), "file")


LARGE = """
import csv, resource, sys
import pyarrow as pa
from datasets import Dataset, DatasetDict
from g4i_hf.captioning.existing import existing_captions
from g4i_hf.options import ExistingCaptionsArguments

rows = 1_281_167
table = {"image_id": pa.array(f"n{i // 1300:08d}/n{i // 1300:08d}_{i}.JPEG" for i in range(rows))}
data = DatasetDict(train=Dataset(pa.table(table)))
with open(f"{sys.argv[1]}/c.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["filename", "caption"])
    for i in range(rows - 1, -1, -1):
        writer.writerow([f"train/n{i // 1300:08d}_{i}.JPEG", f"number {i}, " + "it lies on a wet stone. " * 16])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = existing_captions(data, ExistingCaptionsArguments(captions_file=f"{sys.argv[1]}/c.csv"))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert all(caption.startswith(f"number {i}, ") for i, caption in enumerate(result.captions["train"]))
print(result.report["matched_by"], (peak - before) / 1024)
"""


@pytest.mark.slow
def test_the_captions_of_imagenet_are_joined_in_a_gigabyte(tmp_path):
    command = [sys.executable, "-c", LARGE, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    rule, mebibytes = run.stdout.split()[-2:]
    assert rule == "file"
    assert float(mebibytes) < 1024  # the captions alone are 600

"""No image vanishes from a folder without a word: what is read, what is not, and which class a folder is."""

import json
import os
import re
from pathlib import Path

import make
import pytest
from doors import python
from drawings import draw_folder
from test_loading import by_id, classes_by_id, one_line

from g4i_hf import load_images
from g4i_hf.data import images
from g4i_hf.options import OPTIONS_OF
from g4i_hf.running import main

CLASS_FOLDERS = ["train/cat/1.png", "train/dog/2.png"]


def checked(folder: Path, capsys, *words: str) -> str:
    """What `g4i check` prints, whether the data can be trained on or not."""
    try:
        main(["check", str(folder), "--check_dir", str(folder.with_name("check")), *words])
    except SystemExit as end:
        assert end.code == 1
    return capsys.readouterr().out


def names_of(folder: Path) -> list[str]:
    return load_images(folder)["train"].features["label"].names


def mess(folder: Path) -> Path:
    make.folder(folder, [*CLASS_FOLDERS, "train/cat/2.png", "test/cat/3.png", "1.png", "more/4.png"])
    others = [
        "README.md",
        "labels.jsonl",
        ".git/a/b",
        "train/.DS_Store",
        "train/cat/Thumbs.db",
        "train/__MACOSX/5.png",
    ]
    others += ["train/cat/film.mp4", "train/cat/raw.CR2", "train/cat/noname", "train/Liste.csv", "Liste.xlsx"]
    others += ["train/dog/more.zip", "captions/stage.json", "captions/train.parquet.part"]
    for file in others:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    os.symlink(folder / "nowhere.png", folder / "train" / "dog" / "gone.png")
    return folder


def test_every_file_of_a_folder_is_read_or_named_as_not_read(tmp_path, capsys, caplog):
    folder = mess(tmp_path / "pictures")
    said = checked(folder, capsys)
    (line,) = [line for line in said.splitlines() if line.startswith("Files in ")]
    total, read, unread = (int(number) for number in re.findall(r": (\d+)", line))
    assert total == read + unread == sum(len(files) for *_, files in os.walk(folder))
    for count, kinds in zip((read, unread), re.findall(r"\((.*?)\)", line), strict=True):
        assert count == sum(map(int, re.findall(r"(\d+) [.\w]", kinds)))
    assert "Read: 5 (4 .png, 1 .jsonl)." in line
    for kind in ("2 .png", "1 .mp4", "1 .cr2", "1 .csv", "1 .xlsx", "1 without a suffix", "6 hidden", "1 broken link"):
        assert kind in line.partition("Not read")[2]
    for told in (
        "images beside the splits are not read: 2 (1.png, more/4.png). Move them into one of test, train",
        "tables are not read: 2 (Liste.xlsx, train/Liste.csv). To use one, save it as",
        "columns file_name (such as cats/1.jpg) and label, caption or both. In Excel: File > Save As > CSV UTF-8 (",
        "archives are not read: 1 (train/dog/more.zip). Unpack",
        "links to no file are not read: 1 (train/dog/gone.png)",
        "other files are not read: 3 (train/cat/film.mp4, train/cat/noname, train/cat/raw.CR2)",
    ):
        assert caplog.text.count(told) == 1, told
    load_images(folder)
    assert caplog.text.count("archives are not read") == 1, "once, though a command opens the folder several times"
    assert "README" not in caplog.text + line and "Files in" not in caplog.text


def test_a_folder_in_which_all_is_read_gives_no_word(tmp_path, caplog):
    load_images(make.folder(tmp_path, CLASS_FOLDERS, captions_in="train"))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_images_beside_parquet_files_are_named(tmp_path, caplog):
    make.rows(2).to_parquet(make.folder(tmp_path, CLASS_FOLDERS) / "more.parquet")
    assert len(load_images(tmp_path)["more"]) == 2
    assert f"{tmp_path}: images are not read: 2 ({', '.join(CLASS_FOLDERS)}), as {tmp_path}" in caplog.text
    assert "more.parquet" in caplog.text


# --- HEIC ------------------------------------------------------------------------------------------------------------


def heic_folder(folder: Path) -> Path:
    """One class in PNG; another in HEIC, one file of it called .jpg; a line of metadata for each."""
    from pillow_heif import register_heif_opener

    register_heif_opener()
    files = ["cat/1.png", "cat/2.png", "dog/3.HEIC", "dog/4.heif", "dog/5.jpg"]
    for seed, file in enumerate(files):
        (folder / "train" / file).parent.mkdir(parents=True, exist_ok=True)
        make.noise(seed, 32).save(folder / "train" / file, "PNG" if seed < 2 else "HEIF")
    lines = [json.dumps({"file_name": file, "caption": file}) for file in files]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_heic_images_are_opened_with_their_package(tmp_path, capsys):
    folder = heic_folder(tmp_path / "pictures")
    assert classes_by_id(folder) == {"cat/1.png": "cat", "cat/2.png": "cat"} | dict.fromkeys(
        ("dog/3.HEIC", "dog/4.heif", "dog/5.jpg"), "dog"
    )
    said = checked(folder, capsys)
    assert "Not read: 0" in said and re.search(r"train +5 +2 +5 +5 +0\b", said)
    assert images.decode({"bytes": (folder / "train/dog/3.HEIC").read_bytes(), "path": None}, 64).size == (32, 32)


@pytest.mark.slow
def test_heic_images_without_their_package_are_named_and_their_folder_stays_a_class(tmp_path):
    folder = heic_folder(tmp_path / "pictures")
    code = "import sys; sys.modules['pillow_heif'] = None; from g4i_hf.running import main; main(sys.argv[1:])"
    said = python(
        "import contextlib, sys; sys.stderr = sys.stdout\nwith contextlib.suppress(SystemExit): exec(sys.argv.pop(1))",
        *(code, "check", folder, "--on_bad_images", "skip"),
        cwd=tmp_path,
    )
    assert f"{folder}: HEIC images are not read: 2 (train/dog/3.HEIC, train/dog/4.heif). To open HEIC: " in said
    assert said.count("pip install -e '.[heic]' in a clone of g4i_hf.") == 2, "and for the one called .jpg"
    assert "'dog/5.jpg'" in said and "it is HEIC" in said
    assert "2 class names taken from the folders" in said and re.search(r"train +3 +2 +3 +3 +1\b", said)


# --- Class folders ---------------------------------------------------------------------------------------------------

# What lies in train -> the class of each image, what is said of it
FOLDERS = {
    "a session in a species": (
        ["owl/2024/1.png", "owl/2.png", "jay/session 1/a/3.png"],
        {"2024/1.png": "owl", "owl/2.png": "owl", "a/3.png": "jay"},
        r"Split 'train': 2 images lie below their class folder, as in \w+/.*: the first folder is the class.* move ",
    ),
    "one folder around all classes": (
        ["images/owl/1.png", "images/jay/2.png", "unlabelled/3.png"],
        {"owl/1.png": "owl", "jay/2.png": "jay", "unlabelled/3.png": None},
        "the classes are the folders in images, the only folder with images there",
    ),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_the_first_folder_of_a_split_is_the_class_however_deep_its_images_lie(tmp_path, caplog, name):
    files, expected, told = FOLDERS[name]
    make.folder(tmp_path / "train", files)
    for _ in range(2):
        assert classes_by_id(tmp_path) == expected
    assert len(re.findall(told, caplog.text)) == 1
    make.folder(tmp_path / "validation", [files[0]])
    assert set(classes_by_id(tmp_path, "validation").values()) == {"owl"}, "by the folders of all splits"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (CLASS_FOLDERS, {"cat/1.png": "cat", "dog/2.png": "dog"}),
        (["train/unlabelled/1.png"], {"unlabelled/1.png": None}),
        (["1.png"], {"train/1.png": None}),
    ],
    ids=["others", "unlabelled", "no splits"],
)
def test_empty_class_folders_are_classes(tmp_path, caplog, files, expected):
    """Hidden files do not count; a folder of notes is no class, nor is an empty one called unlabelled."""
    root = make.folder(tmp_path / "train", files) / ("train" if files[0].startswith("train") else "")
    for name in ("ant", "bee", "unlabelled", "notes"):
        (root / name).mkdir(exist_ok=True)
    (root / "ant" / ".gitkeep").touch()
    (root / "notes" / "a.txt").touch()
    caplog.set_level("INFO")
    images = load_images(tmp_path / "train")
    assert images["train"].features["label"].names == sorted({"ant", "bee"} | {*expected.values()} - {None})
    assert classes_by_id(tmp_path / "train") == expected
    assert "class names taken from the folders, of which 2 hold no image (ant, bee)." in caplog.text


# What lies in train, the labels in its metadata, empty folders -> the class of each image, all classes, what is said
NOTHING_SORTED = dict.fromkeys(("images/1.png", "images/2.png", "images/3.png"))
EMPTY_FOLDERS = {
    "beside the folder of all images": (
        [*NOTHING_SORTED],
        [],
        ["tmp"],
        NOTHING_SORTED,
        None,
        r"folders \(tmp\) are no",
    ),
    "named like labels": (
        [*NOTHING_SORTED],
        ["cats", "dogs", None],
        ["cats", "dogs", "tmp"],
        {"images/1.png": "cats", "images/2.png": "dogs", "images/3.png": None},
        ["cats", "dogs"],
        r"Split 'train': empty folders \(tmp\) are no classes, as no folder of its images \(images\) is one\.",
    ),
    "beside captions alone": (
        [*NOTHING_SORTED],
        [None],
        ["cats", "dogs"],
        NOTHING_SORTED,
        None,
        r"\(cats, dogs\) are no",
    ),
    "beside one class in folders": (
        ["cats/2024/1.png", "cats/2025/2.png", "unlabelled/3.png"],
        [],
        ["dogs"],
        {"2024/1.png": "cats", "2025/2.png": "cats", "unlabelled/3.png": None},
        ["cats", "dogs"],
        "2 images lie below their class folder",
    ),
    "beside the folder of all classes": (
        ["images/owl/1.png", "images/jay/2.png"],
        [],
        ["tmp"],
        {"owl/1.png": "owl", "jay/2.png": "jay"},
        ["jay", "owl"],
        "folders in images, the only folder with images there",
    ),
    "beside one class and unlabelled": (
        ["cats/1.png", "unlabelled/2.png"],
        [],
        ["dogs"],
        {"cats/1.png": "cats", "unlabelled/2.png": None},
        ["cats", "dogs"],
        "",
    ),
}


@pytest.mark.parametrize("name", EMPTY_FOLDERS)
def test_an_empty_folder_makes_no_class_of_the_folder_of_the_images(tmp_path, caplog, name):
    files, labels, empty, expected, classes, told = EMPTY_FOLDERS[name]
    train = make.folder(tmp_path / "train", files)
    lines = [json.dumps({"file_name": file, "label": label}) for file, label in zip(files, labels, strict=False)]
    if lines:
        (train / "metadata.jsonl").write_text("\n".join(lines))
    for folder in empty:
        (train / folder).mkdir()
    images = load_images(tmp_path)["train"]
    if classes is None:
        assert "label" not in images.features
        assert {"/".join(Path(each).parts[-2:]) for each in by_id(images, "image_id")} == expected.keys()
    else:
        assert images.features["label"].names == classes and classes_by_id(tmp_path) == expected
    assert len(re.findall(told, caplog.text)) == 1 if told else "no classes" not in caplog.text


# --- Metadata --------------------------------------------------------------------------------------------------------


def test_an_image_needs_no_line_in_the_metadata(tmp_path, caplog):
    """In a class folder, in `unlabelled` or in none; there may be captions of one image alone."""
    others = ["train/dog/3.png", "train/5.png", "train/unlabelled/6.png", "train/owl/7.png", "train/__MACOSX/4.png"]
    make.folder(tmp_path, CLASS_FOLDERS[:1], captions_in="train")
    make.folder(tmp_path, others)
    caplog.set_level("INFO")
    train = load_images(tmp_path)["train"]
    assert by_id(train, "caption").pop("cat/1.png") == "that of cat/1.png" and train["caption"][:].count(None) == 4
    expected = {"cat/1.png": 0, "dog/3.png": 1, "owl/7.png": 2, "train/5.png": None, "unlabelled/6.png": None}
    assert by_id(train, "label") == expected
    assert "Split train: 4 of 5 images have no line in the metadata, and so no caption there." in caplog.text


EXCEL = "Save it as UTF-8. In Excel: File > Save As > CSV UTF-8 (Comma delimited)."
# A table -> all that is said of it, at once
TABLES = {
    "of Excel": (
        "Datei;Text;Art\n1.png;Kätzchen;cat\n2.png;a;b;c;d\ndog\\2;x\nnone.png;x;dog\n2.PNG;y;dog\n;;\n".encode(
            "cp1252"
        ),
        [
            f"(1) it is not UTF-8. {EXCEL} (2) line 3 has more cells than the first line. Put texts with ';' between",
            "(3) line 4 has fewer cells",
            "there is no column file_name among 'Datei', 'Text', 'Art'. Rename 'Datei' to file_name.",
            "there is no file 'none.png', nor for 1 more. Add the images, or remove their rows.",
        ],
    ),
    "names without a suffix": (b"file_name,label\n1,cat\n2,dog\n", ["'1', nor for 1 more. Add", "mean 'cat/1.png'?"]),
    "no names at all": (
        b"caption,label\na cat,cat\n",
        ["there is no column file_name among 'caption', 'label'. It names the image, relative to the table's folder."],
    ),
    "lines and names": (
        b"file_name,label\ncat/1.png,cat\n../2.png,dog\n,dog\n/a.png,dog\ncat/1.png,dog\n",
        [
            "(1) row 1 has the invalid file_name '../2.png'",
            "(2) row 3 has",
            "row 2 has no file_name",
            "1.png 2 times. Keep",
        ],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_all_faults_of_a_table_are_said_at_once(tmp_path, name):
    content, says = TABLES[name]
    make.folder(tmp_path, CLASS_FOLDERS)
    (tmp_path / "train" / "metadata.csv").write_bytes(content)
    line = one_line(tmp_path)
    for each in says:
        assert each in line, line


def test_a_table_of_excel_is_read(tmp_path):
    """Its hint on the delimiter, and lines that were emptied."""
    make.folder(tmp_path, CLASS_FOLDERS)
    text = "sep=;\nfile_name;caption\ncat\\1.png;Kätzchen; \n".replace("; \n", "\n") + ";\n;\n"
    (tmp_path / "train" / "metadata.csv").write_text(text, encoding="utf-8-sig")
    assert by_id(load_images(tmp_path)["train"], "caption") == {"cat/1.png": "Kätzchen", "dog/2.png": None}


def test_spaces_around_names_in_a_table_are_no_part_of_them(tmp_path, caplog):
    """Nor is the form of a letter: `é` is two characters on macOS."""
    folder = tmp_path / "train"
    for name in ("cafe\u0301/1.png", "dog/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make.noise(1).save(folder / name)
    (folder / "metadata.csv").write_text("file_name, caption, label\ncafé/1.png, a cat,café \ndog/1.png, a dog, \n")
    train = load_images(tmp_path)["train"]
    assert train["caption"][:] == ["a cat", "a dog"]
    assert train.features["label"].names == ["café", "dog"] and train["label"][:] == [0, 1]
    (folder / "metadata.csv").write_text("file_name,Caption\ndog/1.png,a dog\n")
    load_images(tmp_path)
    assert "'Caption' is another column than caption, unless --caption_column names it" in caplog.text


def test_two_tables_of_different_kinds_are_named(tmp_path):
    make.folder(tmp_path, CLASS_FOLDERS)
    for name, caption in (("cat/1.png", "a cat"), ("dog/2.png", ["a dog", "a pet"])):
        line = json.dumps({"file_name": name.split("/")[1], "caption": caption})
        (tmp_path / "train" / name).with_name("metadata.jsonl").write_text(line)
    line = one_line(tmp_path)
    assert "cat/metadata.jsonl" in line and "dog/metadata.jsonl" in line and "caption" in line


# --- Unreadable files ------------------------------------------------------------------------------------------------


def test_check_names_all_unreadable_files_and_only_options_that_it_has(tmp_path, capsys):
    pictures = draw_folder(tmp_path / "pictures", train=60, captions=False)
    broken = sorted((pictures / "train").rglob("*.png"))[:12:3]
    for file in broken:
        file.write_bytes(b"no image")
    said = checked(pictures, capsys)
    assert "cannot be trained on" in said and all(str(file) in said for file in broken)
    named = set(re.findall(r"--(\w+)", said))
    known = {name for kind in OPTIONS_OF["check"] for name in kind.__dataclass_fields__}
    assert "on_bad_images" in named and named <= known
    main(["check", str(pictures), "--on_bad_images", "skip", "--check_dir", str(tmp_path / "check")])
    said = capsys.readouterr().out
    assert "cannot be trained on" not in said and all(str(file) in said for file in broken)

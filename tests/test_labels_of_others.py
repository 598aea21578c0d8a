"""Labels of other tools come in with `g4i label --import`, and ours go out with `--export`."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import make
import pandas as pd
import pytest
from drawings import draw_folder
from fitting import save_resnet

from g4i_hf import load_images
from g4i_hf.data.labels import read_people
from g4i_hf.running import main

FORMATS = {"csv": "out.csv", "cvat": "out.xml", "label-studio": "tasks.json", "fiftyone": "labels.json"}


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> Path:
    """Circles are 0, 3, 6, 9, crosses 1, 4, 7, 10, squares the others."""
    monkeypatch.chdir(tmp_path)
    return draw_folder(tmp_path / "pictures", captions=False, train=12)


def answers(folder: Path) -> dict[str, dict[str, str]]:
    """By number of the drawing and annotator."""
    return {
        Path(name).stem: {by: line["label"] or "none" for by, line in lines.items()}
        for name, lines in read_people(folder / "labels.jsonl").items()
    }


def give(pictures: Path, content: str | bytes | dict | list, *options: str, name: str = "given") -> None:
    file = pictures.parent / name
    content = json.dumps(content) if isinstance(content, (dict, list)) else content
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    main(["label", str(pictures), "--import", str(file), *options])


def refused(pictures: Path, capsys, *given, **kwargs) -> str:
    """The line that says why nothing was written."""
    before = (pictures / "labels.jsonl").read_bytes() if (pictures / "labels.jsonl").exists() else None
    with pytest.raises(SystemExit) as stopped:
        give(pictures, *given, **kwargs)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(said) == 1 and said[0].endswith("Nothing was written.")
    assert before == ((pictures / "labels.jsonl").read_bytes() if before is not None else None)
    return said[0]


TABLES = {
    "commas": ("file_name,label\ncircle/0.png,cross\ntrain/cross/1.png,square\n", "utf-8"),
    "Excel": ("sep=;\nBild;Klasse;Nr\n0.png;cross;7\n1.png;square;8\n", "utf-8-sig"),
    "tabs in UTF-16": ("Klasse\tPfad\ncross\tC:\\me\\circle\\0.png\nsquare\tC:\\me\\cross\\1.png\n", "utf-16"),
    "Windows": ("Ort,image,größe,label\nKöln,0.png,1,cross\nBonn,1.png,2,square\n", "cp1252"),
    "no header": ("0.png,cross\n1.png,square\n", "utf-8"),
    "first image lost": ("gone.png,cross\n0.png,cross\n1.png,square\n", "utf-8"),
    "no endings, another case": ("id,category,size\n0,CROSS,1\n1, square ,2\n", "utf-8"),
    "predictions beside labels": ("image,prediction,label\n0.png,circle,cross\n1.png,cross,square\n", "utf-8"),
    "numbers beside names": ("image,label,kind\n0.png,1,cross\n1.png,2,square\n", "utf-8"),
    "a new line in a cell": ('note,label,image\n"a\nb",cross,0.png\n,square,1.png\n', "utf-8"),
    "lines of JSON": ('{"image": "0.png", "label": "cross"}\n{"image": "1.png", "label": "square"}\n', "utf-8"),
    "JSON_MIN": ('[{"image": "a/0.png", "choice": "cross"}, {"image": "1.png", "choice": "square"}]', "utf-8"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_whatever_a_spreadsheet_made_of_it(pictures, capsys, name):
    text, encoding = TABLES[name]
    give(pictures, text.encode(encoding))
    assert ("Not found: 1, the first is gone.png." in capsys.readouterr().out) == ("gone.png" in text)
    assert answers(pictures) == {"0": {"person": "cross"}, "1": {"person": "square"}}
    rows = load_images(pictures)["train"]
    assert rows.features["label"].names == ["circle", "cross", "square"]


def test_what_was_taken_found_and_lost_is_said(pictures, capsys):
    give(pictures, "bild,klasse,text,by\n0.png,cross,a red one,ann\n1.png,,,ann\ngone.png,square,,bob\n")
    said = capsys.readouterr().out
    for words in (
        "a table, file name in 'bild', label in 'klasse', caption in 'text', annotator in 'by'",
        "Images found: 2, the first is train/circle/0.png. Not found: 1, the first is gone.png.",
        "Left out: 1 without a label.",
        "Captions: 1 rows have one. To use them: g4i caption --dataset_name",
        "labels: 1 new, 0 changed, 0 were there before.",
    ):
        assert words in said
    assert answers(pictures) == {"0": {"ann": "cross"}}


def test_columns_are_asked_for_where_they_are_not_clear(pictures, capsys):
    text = "image,first,second\n0.png,cross,square\n1.png,square,circle\n"
    assert "not clear which column has the label" in refused(pictures, capsys, text)
    assert "no column 'secnd'. It has 'image', 'first', 'second'. Did you mean 'second'?" in refused(
        *(pictures, capsys, text, "--columns", "image", "secnd")
    )
    give(pictures, text, "--columns", "image", "second")
    assert answers(pictures) == {"0": {"person": "square"}, "1": {"person": "circle"}}


def test_all_that_a_person_has_to_decide_is_said_at_once_and_nothing_is_written(pictures, capsys):
    shutil.copy(pictures / "train/circle/0.png", pictures / "train/square/0.png")
    give(pictures, "1.png,square\n")
    rows = "circle/0.png,cross 0.png,star 1.png,cross 1.png,circle train/square/2.png,cross 2.png,cross 9.png,sqare"
    said = refused(pictures, capsys, rows.replace(" ", "\n"))
    for words in (
        "'0.png' fits several images",
        "'train/cross/1.png' has two labels of one annotator: line 3 and line 4",
        "'2.png' and 'train/square/2.png' fit 'train/square/2.png'",
        "1 label is none of the 3 classes: 'sqare' (1, first in line 7)",
    ):
        assert words in said
    assert answers(pictures) == {"1": {"person": "square"}}


def test_new_classes_are_added_on_request_also_to_a_folder_without_any(pictures, tmp_path, capsys):
    text = "0.png,star\n1.png,cross\n2.png,none of these\n"
    assert "1 label is none of the 3 classes: 'star' (1, first in line 1)." in refused(pictures, capsys, text)
    give(pictures, text, "--new_classes", "true")
    assert answers(pictures) == {"0": {"person": "star"}, "1": {"person": "cross"}, "2": {"person": "none"}}
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in pictures.rglob("*.png"):
        shutil.copy(path, flat / path.name)
    assert "2 labels are no class, as the data has none" in refused(flat, capsys, text)
    give(flat, text, "--new_classes", "true")
    rows = load_images(flat)["train"]
    names = rows.features["label"].names
    assert sorted(names[label] for label in rows["label"] if label is not None) == ["cross", "star"]
    assert "differ in case only: Moon, moon" in refused(flat, capsys, "0.png,Moon\n1.png,moon\n", "--new_classes")


TASKS = [
    {"id": 7, "data": {"image": "/data/upload/3/0f1a2b3c-0.png"}, "annotations": [], "predictions": []},
    {"id": 8, "data": {"image": "/data/local-files/?d=me%2Fcross/1.png"}},
]
CHOICES = {"type": "choices", "from_name": "kind", "to_name": "image", "value": {"choices": ["square"]}}


def test_annotators_of_label_studio_are_kept_and_uploads_are_found(pictures, capsys):
    others = [
        {"completed_by": {"email": "bob@example.org"}, "result": [CHOICES]},
        {"was_cancelled": True, "completed_by": 9, "result": [CHOICES]},
    ]
    tasks = [
        TASKS[0] | {"annotations": [{"completed_by": 4, "result": [CHOICES]}, *others]},
        TASKS[1] | {"annotations": [{"result": [CHOICES]}]},
        {"id": 9, "data": {"image": "s3://bucket/x/train/square/2.png"}, "annotations": []},
    ]
    give(pictures, tasks, "--by", "ann")
    assert answers(pictures) == {"0": {"4": "square", "bob@example.org": "square"}, "1": {"ann": "square"}}
    said = capsys.readouterr().out
    assert "labels of 3 annotators (4, ann, bob@example.org), so each is a vote. To correct: --by NAME." in said
    assert "Images found: 3" in said and "Left out: 1 without a label, 1 skipped annotations." in said
    second = CHOICES | {"from_name": "quality", "value": {"choices": ["circle"]}}
    tasks = [TASKS[1] | {"annotations": [{"result": [CHOICES, second]}]}]
    assert "choices of several kinds: 'kind', 'quality'" in refused(pictures, capsys, tasks)
    give(pictures, tasks, "--columns", "image", "quality")
    assert answers(pictures)["1"]["person"] == "circle"


def cvat(images: str, before: str = "", root: str = "annotations") -> str:
    return f'<?xml version="1.0" encoding="utf-8"?>{before}<{root}><version>1.1</version>{images}</{root}>'


def test_a_tag_of_cvat_is_the_label_unless_no_person_has_set_it(pictures, capsys):
    tag, box = '<tag label="{}" source="{}"></tag>', '<box label="cross" xtl="1" ytl="1" xbr="2" ybr="2"></box>'
    images = f'<image id="0" name="circle/0.png" width="32">{tag.format("cross", "manual")}{box}</image>'
    images += f'<image id="1" name="1.png">{tag.format("square", "auto")}</image>'
    give(pictures, cvat(images))
    assert answers(pictures) == {"0": {"person": "cross"}}
    assert "1 without a label, 1 boxes and other shapes, 1 tags that no person has set" in capsys.readouterr().out


BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
WRONG = {
    "an XML bomb": (cvat('<image id="0" name="&b;"/>', BOMB), "document type"),
    "an XML file of something else": (cvat("", root="html"), "starts with <html>, not with <annotations>"),
    "broken XML": ("<annotations><image", "is no XML"),
    "a video": (cvat('<track id="0" label="cross"></track>'), "is about a video"),
    "an image without a name": (cvat('<image id="4"></image>'), "image 4 has no name"),
    "a spreadsheet": (b"PK\x03\x04...", "save a spreadsheet as CSV UTF-8"),
    "no text": (b"\x00\x01\x02\xff\x00", "is no text"),
    "other images": ("file_name,label\na.png,cross\n", "no column names images that are here, such as 'train/circle/"),
    "other images without a header": ("a.png,cross\nb.png,circle\n", "no column names images that are here"),
    "nothing": ("", "it has no rows"),
    "ragged rows": ("0.png,cross\n1.png\n2.png,a,b\n", "has fewer cells"),
    "no JSON": ("[1, 2", "is no JSON"),
    "deep JSON": ("[" * 200_000, "is no JSON"),
    "tasks without images": ([{"data": {}, "annotations": []}], "task 1 is no task with an image and choices"),
    "two choices": (
        [TASKS[1] | {"annotations": [{"result": [CHOICES | {"value": {"choices": ["cross", "circle"]}}]}]}],
        "has two labels of one annotator: task 8 and task 8",
    ),
    "labels beyond the classes": ({"classes": ["cross"], "labels": {"0": 0, "1": 5}}, "image '1' has the label 5"),
    "a label below them": ({"classes": ["cross"], "labels": {"0": -1}}, "image '0' has the label -1"),
    "labels of a list": ({"classes": ["cross"], "labels": [1]}, "has no labels by image"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_one_line_and_nothing_is_written(pictures, capsys, name):
    content, words = WRONG[name]
    assert words in refused(pictures, capsys, content)
    assert not (pictures / "labels.jsonl").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_exported_is_imported_as_it_was(pictures, tmp_path, kind):
    (pictures / "train/cross/1.png").rename(pictures / 'train/cross/=ä & "b" #1.png')
    by = ", " if kind in ("cvat", "fiftyone") else "ann,bob@example.org,7"
    rows = ["circle/0.png,cross,ann", "3.png,none of these,ann", '"cross/=ä & ""b"" #1.png",=a <b>,ann']
    rows += ["2.png,cross,ann", "2.png,circle,bob@example.org", "2.png,circle,7"] if "bob" in by else []
    give(pictures, "image,class,by\n" + "\n".join(rows), "--new_classes")
    copy = shutil.copytree(pictures, tmp_path / "copy")
    (copy / "labels.jsonl").unlink()
    file = tmp_path / FORMATS[kind]
    main(["label", str(pictures), "--export", str(file), "--format", kind])
    assert kind != "csv" or ",'=a <b>," in file.read_text(encoding="utf-8"), "no formula for a spreadsheet"
    main(["label", str(copy), "--import", str(file), "--new_classes", *([] if "bob" in by else ["--by", "ann"])])
    assert answers(copy) == answers(pictures)
    again = tmp_path / f"again-{file.name}"
    main(["label", str(copy), "--export", str(again), "--format", kind])
    assert again.read_bytes() == file.read_bytes()
    before = (copy / "labels.jsonl").read_bytes()
    main(["label", str(copy), "--import", str(file), "--by", "ann"])
    assert (copy / "labels.jsonl").read_bytes() == before, "a label that is there is not written again"


def test_the_commands_of_the_guide_run(pictures, tmp_path):
    text = (Path(__file__).parent.parent / "docs/guides/review.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```sh\n(g4i label pictures --import.*?)```", text, flags=re.S)
    commands = [shlex.split(line)[1:] for line in block.splitlines()]
    (tmp_path / "labels.csv").write_text("image;species\n0.png;cross\n")
    save_resnet(tmp_path / "runs" / "pictures")
    for words in commands:
        main(words)
    assert len(commands) == 4 and {*tmp_path.glob("*.json"), *tmp_path.glob("*.xml")}
    assert answers(pictures) == {"0": {"person": "cross"}}


def test_a_gold_image_stays_gold_and_labels_jsonl_of_another_person_is_read(pictures, tmp_path):
    line = {"file_name": "train/circle/0.png", "label": "cross", "pick": "gold", "by": "ann"}
    (pictures / "labels.jsonl").write_text(json.dumps(line) + "\n")
    give(pictures, "0.png,square\n", "--by", "ann")
    assert read_people(pictures / "labels.jsonl")["train/circle/0.png"]["ann"]["pick"] == "gold"
    lines = [line | {"by": "bob", "label": label} for label in ("cross", None, "circle")]
    give(pictures, "".join(json.dumps(each) + "\n" for each in lines), name="theirs.jsonl")
    assert answers(pictures)["0"] == {"ann": "square", "bob": "circle"}


def test_labels_of_new_images_are_of_the_classes_of_a_run(tmp_path):
    """A folder of new images has no class folders."""
    march, run = tmp_path / "march", save_resnet(tmp_path / "run")
    march.mkdir()
    for number in range(3):
        make.noise(number).save(march / f"{number}.png")
    give(march, "0.png,ant\n1.png,bee\n", "--pick", "gold", "--run", str(run))
    people = read_people(march / "labels.jsonl")
    assert [people[f"{number}.png"]["person"]["label"] for number in (0, 1)] == ["ant", "bee"]
    assert people["0.png"]["person"]["pick"] == "gold"


def test_a_label_that_is_there_becomes_gold(pictures):
    give(pictures, "0.png,square\n")
    give(pictures, "0.png,square\n", "--pick", "gold")
    lines = (pictures / "labels.jsonl").read_text().splitlines()
    assert [json.loads(line)["pick"] for line in lines] == ["manual", "gold"]
    give(pictures, "0.png,square\n", "--pick", "gold")
    assert len((pictures / "labels.jsonl").read_text().splitlines()) == 2


def test_suggestions_are_predictions_with_a_score_and_no_labels(pictures, tmp_path):
    student = save_resnet(tmp_path / "student")
    for kind, name in FORMATS.items():
        main(["label", str(pictures), "--export", name, "--format", kind, "--suggest", student])
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert len(tasks) == 12 and not any(task["annotations"] for task in tasks)
    (prediction,) = tasks[0]["predictions"]
    assert prediction["result"][0]["value"]["choices"][0] in ("ant", "bee") and 0.5 <= prediction["score"] <= 1
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert float(rows[0]["probability"]) == prediction["score"] and rows[0]["label"] == ""
    assert 'source="auto"' in (tmp_path / "out.xml").read_text()
    main(["label", str(pictures), "--import", "out.xml"])
    assert not read_people(pictures / "labels.jsonl")


def test_a_name_in_another_folder_is_another_image(pictures, capsys):
    give(pictures, "file_name,label\ncircle/0.png,cross\ncircle/1.png,cross\n")
    assert answers(pictures) == {"0": {"person": "cross"}} and "Not found: 1" in capsys.readouterr().out


def test_answers_of_another_image_of_that_name_are_left_out_and_keep_how_it_was_picked(pictures, capsys):
    line = {"file_name": "train/circle/0.png", "digest": "ffff", "label": "cross", "pick": "next", "by": "ann"}
    other = line | {"file_name": "train/cross/1.png", "digest": None}
    give(pictures, "\n".join(map(json.dumps, (line, other))), name="theirs.jsonl")
    assert answers(pictures) == {"1": {"ann": "cross"}} and "1 of another image" in capsys.readouterr().out
    assert read_people(pictures / "labels.jsonl")["train/cross/1.png"]["ann"]["pick"] == "next"


def test_a_label_of_an_image_that_was_replaced_since_is_new(pictures, capsys):
    give(pictures, "0.png,cross\n1.png,square\n")
    shutil.copy(pictures / "train" / "square" / "2.png", pictures / "train" / "circle" / "0.png")
    capsys.readouterr()
    give(pictures, "0.png,cross\n1.png,square\n")
    assert "0 new, 1 changed, 1 were there before" in capsys.readouterr().out


def test_a_label_of_an_image_that_was_replaced_since_is_not_exported(pictures, capsys):
    give(pictures, "0.png,cross\n1.png,square\n")
    shutil.copy(pictures / "train" / "square" / "2.png", pictures / "train" / "circle" / "0.png")
    capsys.readouterr()
    main(["label", str(pictures), "--export", "out.csv"])
    said = capsys.readouterr().out
    assert "1 with a label" in said and "Left out: 1 labels of images that have changed since" in said
    written = pd.read_csv("out.csv").set_index("file_name")["label"]
    assert written.dropna().to_dict() == {"train/cross/1.png": "square"}


def test_a_label_of_a_dropped_class_is_refused_also_as_a_new_one(pictures, capsys):
    (pictures / "classes.yaml").write_text("cross: {drop: true}\n")
    for options in ((), ("--new_classes", "true")):
        assert "a class that" in (said := refused(pictures, capsys, "0.png,cross\n2.png,square\n", *options))
        assert "drops. Take that out, or remove these rows." in said


def test_a_table_with_tabs_may_begin_with_an_empty_name(pictures):
    """As `to_csv` writes the column of row numbers."""
    give(pictures, "\tfile_name\tlabel\n0\t0.png\tcross\n1\t1.png\tsquare\n")
    assert answers(pictures) == {"0": {"person": "cross"}, "1": {"person": "square"}}


def test_an_export_replaces_no_file(pictures, capsys):
    give(pictures, "0.png,cross\n1.png,square\n")
    before = (pictures / "labels.jsonl").read_bytes()
    with pytest.raises(SystemExit):
        main(["label", str(pictures), "--export", str(pictures / "labels.jsonl"), "--format", "csv"])
    assert "which exists" in capsys.readouterr().err and (pictures / "labels.jsonl").read_bytes() == before

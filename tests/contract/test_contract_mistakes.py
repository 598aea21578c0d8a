"""A likely mistake ends with code 2 and one line that names it and what to do; nothing is made."""

import json
import re
from pathlib import Path

import make
import pytest
from caption_doors import CAPTIONER
from doors import spelled
from drawings import ENCODER, STUDENT, TRAINING, draw_folder
from PIL import Image
from released_runs import a_run
from transformers import BertConfig

from g4i_hf import load_images, release_student
from g4i_hf.data.stage import write_stage
from g4i_hf.running import main

TRAIN = {"output_dir": "{out}"} | STUDENT | TRAINING | ENCODER
EMBED = {"embeddings_dir": "{out}"} | ENCODER
CAPTION = {"captions_dir": "{out}"}
LOCAL = CAPTION | {"captioner_model": CAPTIONER}
SERVER = CAPTION | {"captioner_model": "m", "base_url": "http://127.0.0.1:9/v1"}  # where nobody listens
EXPORT = SERVER | {"export_requests": "requests.jsonl"}
PREDICT = {"model": "{aligned}", "images": "{pictures}", "predictions": "out.csv"}
PRICES = {"price_input": 1, "price_output": 1}
FIT = {"output_dir": "{out}"}
# Command; options, of which `{...}` are folders of `places`; and what the line must hold: the mistake, and the remedy
# or the nearest right name
MISTAKES = {
    # --- Options: test_cli.py has the ways to write one wrongly
    "no dataset": ("train", STUDENT, ("dataset_name is missing", "--dataset_name")),
    "no run folder": ("train", {"dataset_name": "{pictures}"} | STUDENT, ("output_dir is missing", "--output_dir")),
    # --- Data
    "no such folder": ("train", TRAIN | {"dataset_name": "{gone}"}, ("dataset_name", "{gone}")),
    "a file": ("train", TRAIN | {"dataset_name": "{texts}/train/circle/note.txt"}, ("is a file", "folder that it is")),
    "folder without images": ("train", TRAIN | {"dataset_name": "{texts}"}, ("dataset_name", "{texts}")),
    "split": ("train", TRAIN | {"train_split": "trian"}, ("'trian'", "train_split", "validation")),
    "caption column": ("embed", EMBED | {"caption_column": "captoin"}, ("captoin", "caption_column", "caption,")),
    "no captions to train on": ("train", TRAIN | {"dataset_name": "{bare}"}, ("caption", "--caption_column")),
    "labels of one's own column": (
        *("train", TRAIN | {"dataset_name": "{measured}", "label_column": "species"}),
        ("Column 'species' holds float64", "--label_column"),
    ),
    "no label": ("train", TRAIN | {"dataset_name": "{unlabelled}"}, ("label", "--unlabelled keep")),
    "unreadable image": ("train", TRAIN | {"dataset_name": "{corrupt}"}, ("cross/1.png", "--on_bad_images")),
    "32 bits": ("train", TRAIN | {"dataset_name": "{deep}"}, ("cross/1.png", "mode F", "scale the values")),
    # --- Groups
    "no regular expression": ("fit", FIT | {"group_by": "(clip"}, ("group_by is '(clip'", "none, folder, time")),
    "no file of this name": (
        "fit",
        FIT | {"group_by": "clip"},
        ("no file name, such as 'train/circle/0.png'",),
    ),
    "images beside each other": ("fit", FIT | {"group_by": "folder"}, ("circle/0.png'", "a folder of their own")),
    "no time": ("fit", FIT | {"group_by": "time"}, ("no image has a time", "circle/0.png'", "column `group`")),
    "one group for all": ("fit", FIT | {"group_by": "png"}, ("all 18 training images into one group, 'png'", "none")),
    "one group for all in a column": ("fit", FIT | {"dataset_name": "{one}"}, ("Column 'group'", "group_by none")),
    # --- Models
    "an objective of nobody": ("train", TRAIN | {"align_loss": "nobodys"}, ("nobodys", "siglip", "--module")),
    "student": ("train", TRAIN | {"student": "resnet81"}, ("resnet81", "'resnet18'")),
    "argument of the student": ("train", TRAIN | {"student_args": '{"layrs": [1]}'}, ("student_args", "layrs")),
    "its size": ("train", TRAIN | {"student": "vit", "student_args": '{"hiden_size": 8}'}, ("'hidden_size'",)),
    "student of a run": ("fit", FIT | {"student": "{aligned}"}, ("{aligned} is a student of g4i_hf", "Name the net")),
    "student of a release": (
        "check",
        {"dataset_name": "{bare}", "student": "{released}"},
        ("{released} is a student of g4i_hf", "started from"),
    ),
    "view of a release": ("fit", FIT | {"views": "image:{released}"}, ("(views): ", "is a student of g4i_hf")),
    "no text encoder": ("embed", {"embeddings_dir": "{out}"}, ("--text_encoder",)),
    "no captioner": ("caption", CAPTION, ("--captioner_model", "--base_url")),
    "captioner that is not there": ("caption", CAPTION | {"captioner_model": "me/none"}, ("me/none",)),
    # --- Captions
    "folder of a captioner": ("caption", CAPTION | {"captioner_model": "no/such/folder"}, ("no such folder",)),
    "no captioner at all": ("caption", CAPTION | {"captioner_model": "{bert}"}, ("AutoModelForImageTextToText",)),
    "model of a server": ("caption", SERVER | {"captioner_model": None}, ("captioner_model is missing",)),
    "cost without prices": ("caption", SERVER | {"max_cost": 5}, ("max_cost needs the prices",)),
    "captions in a file": ("caption", LOCAL | {"captions_dir": "{texts}/train/circle/note.txt/c"}, ("is a file",)),
    "choose of nothing": ("caption", SERVER | {"dataset_name": "{flat}", "prompt": "choose"}, ("no names of",)),
    "class twice": ("caption", SERVER | {"prompt": ["{class_names}?", "choose"]}, ("asks for the class twice",)),
    "choose a column": ("caption", CAPTION | {"prompt": "choose", "caption_column": "caption"}, ("captions exist",)),
    "export and import": ("caption", EXPORT | {"import_answers": "answers.jsonl"}, ("not both",)),
    "cost of an export": ("caption", EXPORT | PRICES | {"max_cost": 1}, ("--max_requests",)),
    "export of a local model": ("caption", EXPORT | {"base_url": None}, ("base_url",)),
    "address without http": ("caption", SERVER | {"base_url": "localhost:8000"}, ("must look like http",)),
    "no address": ("caption", SERVER | {"base_url": " , "}, ("not given",)),
    "token in an address": ("caption", SERVER | {"base_url": "https://me:canary@host/v1"}, ("environment variable",)),
    "offline": ("caption", SERVER | {"base_url": "https://router.huggingface.co/v1"}, ("HF_HUB_OFFLINE",)),
    "no such variable": ("caption", SERVER | {"api_key_env": "NO_SUCH_TOKEN"}, ("environment variable is not set",)),
    "no token in it": ("caption", SERVER | {"api_key_env": "ODD_TOKEN"}, ("holds no token",)),
    # --- Fit
    "captioner of fit": ("fit", FIT | {"captioner": "http://127.0.0.1:9/v1"}, ("captioner_model",)),
    "address of its captioner": ("fit", FIT | {"captioner_model": "vlm"}, ("give its address with captioner",)),
    "tracker": ("fit", FIT | {"report_to": "trakio"}, ("report_to is 'trakio'", "Did you mean 'trackio'")),
    "questions": ("fit", FIT | {"questions": "chose"}, ("questions is 'chose'", "Did you mean 'choose'")),
    "statistics of new norms": (
        "train",
        TRAIN | {"dataset_name": "{pictures}", "freeze_norm_statistics": "true"},
        ("freeze_norm_statistics", "pretrained is false", "set pretrained to true"),
    ),
    "no weights": ("fit", FIT | {"pretrained": "false"}, ("pretrained is false: name a student",)),
    # --- labels.jsonl
    "text for none": ("check", {"dataset_name": "{quoted}"}, ("labels.jsonl, line 2", "'false'", "without quotes")),
    "new class in another case": ("check", {"dataset_name": "{cased}"}, ("line 2", "'Eagle'", "'eagle'", "case only")),
    "labels from nowhere": (
        "label",
        {"dataset_name": "{bare}", "import": "{gone}"},
        ("import_file is '{gone}'", "no such file"),
    ),
    "labels in and out": ("label", {"import": "a.csv", "export": "b.csv"}, ("one at a time",)),
    "one column": ("label", {"import": "a.csv", "columns": "image"}, ("FILE_NAME LABEL",)),
    "columns of no file": ("label", {"columns": ["image", "label"]}, ("--import",)),
    "labels in an unknown format": ("label", {"export": "labels.json"}, ("cvat or fiftyone with --format",)),
    "format of no file": ("label", {"format": "cvat"}, ("format is about a file to write", "--export")),
    "labels of nobody": ("label", {"by": " "}, ("by is empty",)),
    "classes beside a run": (
        "label",
        {"dataset_name": "{bare}", "run": "{released}", "pick": "gold", "class_names_file": "names.txt"},
        ("whose classes these images have", "leave class_names_file out"),
    ),
    "a run for other images": ("label", {"run": "{bare}", "pick": "next"}, ("to measure it on new", "--pick gold")),
    "no run": (
        "label",
        {"dataset_name": "{bare}", "run": "{bare}", "pick": "gold"},
        ("holds no config.json", "a folder of g4i fit"),
    ),
    "answers into a folder": ("label", {"dataset_name": "{bare}", "labels_file": "{texts}"}, ("--labels_file",)),
    # --- Folders
    "run of other options": ("train", TRAIN | {"output_dir": "{aligned}"}, ("{aligned} holds a run", "--overwrite")),
    "captions over images": ("caption", {"captions_dir": "{pictures}", "caption_column": "caption"}, ("{pictures}",)),
    "run of other classes": ("evaluate", {"run": "{aligned}", "dataset_name": "{others}"}, ("other classes",)),
    "evaluate images": ("evaluate", {"run": "{pictures}"}, ("{pictures}/train.yaml, which is no file",)),
    "weights that were not averaged": ("evaluate", {"run": "{aligned}", "weights": "ema"}, ("--weights raw",)),
    "another hold-out": ("evaluate", {"run": "{aligned}", "validation_fraction": 0.2}, ("would pass for held out",)),
    "nothing to release": ("release", {}, ("--run", "--stage")),
    "no stage yet": ("release", {"stage": "{gone}"}, ("no stage '{gone}'", "--caption_column caption --captions_dir")),
    "release a stage as a run": ("release", {"run": "{captions}"}, ("{captions} holds no trained model",)),
    "release a run as a stage": ("release", {"stage": "{aligned}"}, ("{aligned} is no such stage",)),
    "release both": ("release", {"run": "{aligned}", "stage": "{captions}"}, ("{aligned}", "{captions}")),
    "no run to evaluate": ("evaluate", {}, ("run is missing", "--run")),
    "search for nothing": ("search", {"run": "{aligned}"}, ("query is missing",)),
    "search of nothing": ("search", {"run": "{aligned}", "query": "red", "images": "{gone}"}, ("images is '{gone}'",)),
    # --- Predict
    "nothing to predict": ("predict", {"model": "{aligned}"}, ("images is missing", "g4i predict MODEL IMAGES -o")),
    "no classifier": ("predict", PREDICT | {"model": "./no/such"}, ("model is './no/such'", "folder of g4i fit")),
    "images for a classifier": ("predict", PREDICT | {"model": "{pictures}"}, ("{pictures}", "no config.json")),
    "captioner for a classifier": ("predict", PREDICT | {"model": "{bert}"}, ("cannot be loaded", "image classifier")),
    "no images": ("predict", PREDICT | {"images": "{texts}"}, ("{texts} holds no image",)),
    "no folder of images": ("predict", PREDICT | {"images": "{gone}"}, ("images is '{gone}'", "no such folder")),
    "no list of images": ("predict", PREDICT | {"images": "{gone}.txt"}, ("images is '{gone}.txt'", "no such file")),
    "no split of images": ("predict", PREDICT | {"split": "tset"}, ("{pictures} has no folder 'tset'",)),
    "kind of predictions": ("predict", PREDICT | {"predictions": "p.xlsx"}, ("p.xlsx", ".csv, .parquet, .jsonl")),
    "predictions below a file": (
        "predict",
        PREDICT | {"predictions": "{texts}/train/circle/note.txt/p.csv"},
        ("cannot be written to", "another folder"),
    ),
    "page in place of a folder": ("predict", PREDICT | {"page": "{texts}"}, ("page is '{texts}'", "is a folder")),
    "precision without thresholds": ("predict", PREDICT | {"precision": 0.95}, ("no thresholds", "g4i fit")),
    "id of another form": ("release", {"run": "{aligned}", "repo_id": "emoji"}, ("repo_id is emoji", "NAME/emoji")),
    "address for an id": ("release", {"run": "{aligned}", "repo_id": "https://huggingface.co/me"}, ("me/my-student",)),
    "format of a stage": ("release", {"stage": "{captions}", "formats": "onnx"}, ("formats is for students",)),
    "format": ("release", {"run": "{aligned}", "formats": "onnx-fp61"}, ("formats is 'onnx-fp61'", "'onnx-fp16'")),
    "push without a name": ("release", {"run": "{aligned}", "push_to_hub": "true"}, ("--repo_id",)),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory, pictures) -> dict[str, Path]:
    """Folders with something wrong, and right ones; `gone` and `out` are not there."""
    root = tmp_path_factory.mktemp("places")
    found = {name: root / name for name in ("gone", "texts", "captions")}
    found |= {"pictures": pictures, "aligned": a_run(root / "aligned", dataset_name=str(pictures))}
    found["released"] = release_student(found["aligned"], root / "released", aligned=False)
    captions = {name: rows.select_columns(["image_id", "caption"]) for name, rows in load_images(pictures).items()}
    about = {"stage": "captioning", "source": str(pictures), "captioner": {"captioner": "column"}}
    write_stage(found["captions"], captions, about)
    (found["texts"] / "train" / "circle").mkdir(parents=True)
    (found["texts"] / "train" / "circle" / "note.txt").write_text("no image")
    found["bare"] = draw_folder(root / "bare", captions=False, train=6)
    found["others"] = draw_folder(root / "others", captions=False, validation=6)
    (found["others"] / "validation" / "cross").rename(found["others"] / "validation" / "star")
    found["corrupt"] = draw_folder(root / "corrupt", train=6)
    (found["corrupt"] / "train" / "cross" / "1.png").write_bytes(b"no image")
    said = {"file_name": "train/cross/1.png"}
    lines = {"quoted": ({"label": "cross"}, {"none": "false"})}
    lines["cased"] = tuple({"label": name, "new_class": True} for name in ("eagle", "Eagle"))
    for name, (first, second) in lines.items():
        found[name] = draw_folder(root / name, train=6)
        texts = json.dumps(said | first), json.dumps({"file_name": "train/cross/4.png"} | second)
        (found[name] / "labels.jsonl").write_text("\n".join(texts))
    found["deep"] = draw_folder(root / "deep", train=6)
    Image.new("F", (8, 8), 0.5).save(found["deep"] / "train" / "cross" / "1.png", "TIFF")
    one = found["one"] = draw_folder(root / "one", captions=False, train=6)
    names = [path.relative_to(one / "train").as_posix() for path in sorted((one / "train").rglob("*.png"))]
    lines = [json.dumps({"file_name": name, "group": "site"}) for name in names]
    (one / "train" / "metadata.jsonl").write_text("\n".join(lines))
    found["unlabelled"] = draw_folder(root / "unlabelled", labels_a_class=1, train=6)
    BertConfig().save_pretrained(root / "bert")
    found["bert"] = root / "bert"
    measured = make.rows(6, label=None, species=None).add_column("species", [0.5] * 6)
    measured.save_to_disk(found.setdefault("measured", root / "measured"))
    found["flat"] = make.folder(root / "flat", [f"train/{number}.png" for number in range(4)])
    return found


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_code_2(places, tmp_path, monkeypatch, capfd, name):
    (command, words, says), places = MISTAKES[name], places | {"out": tmp_path / "out"}

    def placed(text: str) -> str:
        return re.sub(r"{(\w+)}", lambda place: str(places.get(place[1], place[0])), text)

    monkeypatch.setenv("ODD_TOKEN", "sk-canary two")
    words = {option: value for option, value in words.items() if value is not None}
    if words.keys() & {"output_dir", "embeddings_dir", "captions_dir"}:
        words = {"dataset_name": places["pictures"]} | words
    monkeypatch.chdir(tmp_path)  # where no demo has left its runs
    with pytest.raises(SystemExit) as end:
        main([command, *(placed(word) for word in spelled((words,)))])
    out, err = capfd.readouterr()
    assert end.value.code == 2 and out == "" and "Traceback" not in err, err[-3000:]
    *others, message = err.splitlines()
    assert message.startswith("error: ") and not any(line.startswith("error: ") for line in others), err[-3000:]
    assert all(placed(part) in message for part in says), message
    assert not list(tmp_path.glob("out*")) and not places["gone"].exists() and "canary" not in err

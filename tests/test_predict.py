"""`g4i predict`: a line for each image, with its class, and whether that is sure enough for a person to rely on it."""

import json
import os
import shutil
from pathlib import Path

import make
import pandas as pd
import pytest
import torch
import transformers
from datasets import Dataset
from doors import succeed
from PIL import Image
from students import aligned_model
from transformers import pipeline

from g4i_hf import predict
from g4i_hf.hub import save_student
from g4i_hf.running import main

FILES = ["b/deep/er/3.png", "a/1.png", "a/2.jpg", "0.png"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    place = make.folder(tmp_path_factory.mktemp("new") / "pictures", FILES)
    (place / "a" / "broken.png").write_bytes(b"no image")
    (place / "notes.txt").write_text("no image")
    Image.open(place / "a" / "2.jpg").save(place / "a" / "turned.jpg", exif=b"Exif\0\0" + exif_of_a_turned_image())
    return place


def exif_of_a_turned_image() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes().removeprefix(b"Exif\0\0")


def predicted(*words) -> pd.DataFrame:
    main(["predict", *map(str, words)])
    file = Path(words[words.index("-o") + 1])
    readers = {
        ".csv": lambda: pd.read_csv(file, keep_default_na=False, dtype=str),
        ".parquet": lambda: pd.read_parquet(file),
    }
    return readers.get(file.suffix, lambda: pd.read_json(file, lines=True))().astype(object).fillna("")


def test_a_name_that_is_not_utf_8_is_said_before_any_work(student, tmp_path, capsys):
    place = make.folder(tmp_path / "pictures", ["1.png"])
    try:
        os.rename(place / "1.png", os.fsencode(place) + b"/caf\xe9.png")
    except OSError:
        pytest.skip("file names are UTF-8 here")
    with pytest.raises(SystemExit):
        main(["predict", str(student), str(place), "-o", str(tmp_path / "p.csv")])
    assert r"caf\xe9.png' is not UTF-8. Rename the file, as convmv does." in capsys.readouterr().err
    assert not [*tmp_path.glob("p.csv*")]


@pytest.mark.slow
def test_transformers_says_nothing_of_a_timm_network(pictures, tmp_path):
    """It warned that the processor of timm has no backend of torchvision."""
    save_student(aligned_model("timm-resnet"), tmp_path / "timm")
    done = succeed("predict", tmp_path / "timm", pictures, "-o", tmp_path / "p.csv")
    assert "[transformers]" not in done.err and "backend" not in done.err


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_each_image_is_a_line_and_an_unreadable_one_says_why(student, pictures, tmp_path, capsys, kind):
    rows = predicted(student, pictures, "-o", tmp_path / f"p.{kind}", "--top", 2, "--page", tmp_path / "p.html")
    assert rows["file_name"].tolist() == [
        "0.png",
        "a/1.png",
        "a/2.jpg",
        "a/broken.png",
        "a/turned.jpg",
        "b/deep/er/3.png",
    ]
    bad = rows.iloc[3]
    assert bad["reason"] == "no known image format" and bad["decision"] == "ask" and not bad["label"]
    others = rows.drop(index=3)
    assert set(others["label"]) <= {"ant", "bee"} and set(others["decision"]) == {"answer"}
    shares = others["probability"].astype(float) + others["probability_2"].astype(float)
    assert shares.sub(1).abs().max() < 1e-5
    assert (tmp_path / "p.html").read_text().count("<figure") == 5
    assert (
        "5 images are answered, however unsure" in (said := capsys.readouterr().out)
        and "Not read: 1 image, see" in said
    )
    assert {path.name for path in tmp_path.iterdir()} == {f"p.{kind}", "p.html", "summary.json"}


def test_a_build_for_cuda_predicts_without_a_gpu(student, pictures, tmp_path, monkeypatch):
    """torch then names CUDA as the current accelerator, although none is available."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert len(predicted(student, pictures, "-o", tmp_path / "p.csv")) == 6


def test_it_predicts_what_a_pipeline_does(student, pictures):
    files = [str(path) for path in sorted(pictures.rglob("*.*g")) if path.name != "broken.png"]
    of_pipeline = pipeline("image-classification", model=student, device="cpu")(files)
    rows = predict(student, files, batch_size=2)
    for row, expected in zip(rows, of_pipeline, strict=True):
        assert row["label"] == expected[0]["label"] and row["probability"] == pytest.approx(
            expected[0]["score"], abs=1e-5
        )


def test_a_classifier_of_others_in_half_precision_predicts_in_float32(pictures, tmp_path):
    config = transformers.ResNetConfig(num_labels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    transformers.ResNetForImageClassification(config).half().save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(tmp_path)
    rows = [row for row in predict(tmp_path, pictures) if not row["reason"]]
    assert len(rows) == 5 and all(0 < row["probability"] <= 1 for row in rows)


def test_without_a_threshold_for_95_percent_the_highest_one_decides(student, pictures, tmp_path, capsys):
    """Every image was answered, and "no threshold is known" was said."""
    shutil.copytree(student, tmp_path / "known")
    file = tmp_path / "known" / "config.json"
    known = {"0.9": {"threshold": 1.1, "certain": True, "share": 0.1}}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"decision_thresholds": known}))
    rows = predicted(tmp_path / "known", pictures, "-o", tmp_path / "p.csv")
    said = capsys.readouterr().out
    assert set(rows["decision"]) == {"ask"} and "No threshold is known for 95%.\nAt 90% it answers 0 of 5" in said


def test_images_of_all_kinds_are_predicted_alike(student, pictures, tmp_path):
    files = sorted(path for path in pictures.rglob("*.*g") if path.name != "broken.png")
    (tmp_path / "list.txt").write_text("\n".join(map(str, files)) + "\n\n", encoding="utf-8-sig")  # as on Windows
    table = Dataset.from_dict({"image": list(map(str, files))}).cast_column("image", make.rows(1).features["image"])
    table.save_to_disk(tmp_path / "saved")
    by_folder = [row for row in predict(student, pictures) if not row["reason"]]
    given = (
        files,
        [Image.open(file) for file in files],
        table,
        {"new": table},
        tmp_path / "list.txt",
        str(tmp_path / "saved"),
    )
    for images in given:
        found = predict(student, images)
        assert [row["probability"] for row in found] == pytest.approx([row["probability"] for row in by_folder])
    assert len(predict(student, files[0])) == 1 and len(predict(student, pictures, split="a")) == 4
    photos = table.rename_column("image", "photo")
    photos.save_to_disk(tmp_path / "photos")
    for images in (photos, {"new": photos}, str(tmp_path / "photos")):
        found = predict(student, images, image="photo")
        assert [row["probability"] for row in found] == pytest.approx([row["probability"] for row in by_folder])
    with pytest.raises(ValueError, match="Rename the right one to 'image', or name it with image='...'"):
        predict(student, photos)
    for images in (pictures, files):
        with pytest.raises(ValueError, match="no columns such as 'photo'. Leave out image='...'"):
            predict(student, images, image="photo")


def test_a_killed_start_goes_on_unless_something_changed(student, pictures, tmp_path, capsys):
    whole = predicted(student, pictures, "-o", tmp_path / "whole.jsonl")
    file, part = tmp_path / "p.jsonl", tmp_path / "p.jsonl.part"
    with pytest.raises(SystemExit):
        main(["predict", student, str(pictures), "-o", str(tmp_path / "whole.jsonl")])
    assert "whole.jsonl is there" in capsys.readouterr().err
    from g4i_hf.inference import writing

    begun = writing.Predictions.finish
    with pytest.MonkeyPatch.context() as patch:  # a kill before the end
        patch.setattr(writing.Predictions, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(SystemExit):
            main(["predict", student, str(pictures), "-o", str(file)])
    assert begun is writing.Predictions.finish and not file.exists()
    lines = part.read_text().splitlines(keepends=True)
    part.write_text("".join(lines[:4]) + lines[4][:9])  # and a line that it cut
    capsys.readouterr()
    again = predicted(student, pictures, "-o", file)
    assert "3 of 6 images were predicted before" in capsys.readouterr().out
    assert again.equals(whole)
    part.write_text("".join(lines))
    (pictures / "0.png").touch()
    before = (pictures / "a" / "2.jpg").stat()
    make.noise(9, 16).save(pictures / "a" / "2.jpg")
    os.utime(pictures / "a" / "2.jpg", ns=(before.st_atime_ns, before.st_mtime_ns))
    again = predicted(student, pictures, "-o", file, "--overwrite")
    assert "2 of 6 images were predicted before" in capsys.readouterr().out  # up to the one with other content
    assert (again["probability"] == whole["probability"]).tolist() == [True, True, False, True, True, True]
    part.write_text("".join(lines[:4]))
    predicted(student, pictures, "-o", file, "--top", 2, "--overwrite")
    assert "Changed since the last start: the option top." in capsys.readouterr().out
    shutil.copytree(student, tmp_path / "student")
    (tmp_path / "student" / "all_results.json").write_text('{"eval_accuracy": 0.9}')  # as `g4i evaluate` adds
    part.write_text("".join(lines[:4]))
    predicted(tmp_path / "student", pictures, "-o", file, "--overwrite")
    assert "2 of 6 images were predicted before" in capsys.readouterr().out

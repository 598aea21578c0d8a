"""Unlabelled images that belong to none of the classes: how many there are, which, and that they count less."""

import dataclasses
import json
import shutil
from functools import cache
from pathlib import Path

import make
import numpy as np
import pytest
import torch
from drawings import draw_folder, drawing
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from g4i_hf import LabelModel, View, predict
from g4i_hf.fitting.evidence import Evidence
from g4i_hf.fitting.result import FitResult
from g4i_hf.fitting.targets import Targets
from g4i_hf.fitting.words import judgement_lines, next_command
from g4i_hf.hub import release_student
from g4i_hf.label_model.picks import doubtful_labels, pick_next
from g4i_hf.running import main
from g4i_hf.words import noise_in_words

CLASSES, OTHERS, DIM = 8, 6, 24


@cache
def fitted(
    others: int, labelled: int = 6, in_pairs: bool = False, seed: int = 0
) -> tuple[LabelModel, np.ndarray, dict[str, View]]:
    """
    Two views of 60 images a class, perhaps of classes in pairs that are alike, and so many of other classes; the truth
    (N,) is -1 for these.
    """
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.repeat(np.arange(CLASSES), 60), np.full(others, -1)])
    shown = np.where(truth < 0, CLASSES + rng.integers(OTHERS, size=len(truth)), truth)
    views = {}
    for name, spread in (("caption", 0.4), ("image", 0.6)):
        centres = rng.normal(size=(CLASSES + OTHERS, DIM))
        if in_pairs:
            centres[1:CLASSES:2] = centres[0:CLASSES:2] + 0.4 * rng.normal(size=(CLASSES // 2, DIM))
        views[name] = View((centres[shown] + spread * rng.normal(size=(len(truth), DIM))).astype(np.float32))
    labels = np.where(np.arange(len(truth)) % 60 < labelled, truth, -1)
    return LabelModel(CLASSES).fit(views, labels), truth, views


@pytest.mark.parametrize(("others", "share"), [(0, 0.0), (200, 0.32), pytest.param(800, 0.65, marks=pytest.mark.slow)])
def test_the_share_of_unlabelled_images_of_no_class_is_told(others, share):
    model, truth, _ = fitted(others)
    assert share - 0.15 < model.none_share_.share < share + 0.03  # rather too few
    assert model.none_share_.interval[0] <= share
    if others:
        assert model.none_[truth < 0].mean() > 0.6
    assert model.none_[truth >= 0].mean() < 0.1
    assert not model.none_[model.folds_ < 5].any(), "labelled images belong to a class"
    assert fitted(200, labelled=1)[0].none_share_ is None, "without labels to hold out nothing is said"


def test_no_more_is_claimed_where_classes_are_alike():
    """A hidden class looks explained by its twin, so that all of the class counts as one observation."""
    model, truth, _ = fitted(150, labelled=4, in_pairs=True, seed=1)
    share = 150 / (len(truth) - 4 * CLASSES)
    assert 0.1 < model.none_share_.interval[0] < share  # rows that counted alone would put the end above the share


def test_a_student_learns_little_from_images_of_no_class_and_is_not_judged_by_them():
    model, truth, views = fitted(200)
    labels = np.where(model.folds_ < 5, truth, -1)
    unlabelled = np.flatnonzero(labels < 0)
    evidence = Evidence(labels, views, model, np.arange(len(truth)), holdout=unlabelled)
    weights = Targets(evidence, unlabelled_weight=0.5).learned("with_views", np.arange(len(truth)))[1].sum(1)
    assert weights[truth < 0].mean() < 0.15
    assert weights[(truth >= 0) & (labels < 0)].mean() > 0.4
    assert weights[labels >= 0] == pytest.approx(1, abs=0.01)
    assert (truth[unlabelled] < 0).mean() > 0.3 > 0.2 > (truth[evidence.holdout] < 0).mean()


def test_images_of_no_class_are_not_labelled_next():
    """By their probability, and once a person has seen some of them, as similar images are not asked about."""
    model, truth, views = fitted(200)
    labels, values = np.where(model.folds_ < 5, truth, -1), [view.values for view in views.values()]
    nobody, unknown = np.zeros(len(truth), dtype=bool), np.zeros(len(truth))

    def number(none: np.ndarray, is_none: np.ndarray) -> int:
        return (truth[pick_next(model.probabilities_, labels, none, is_none, values)] < 0).sum()

    assert number(unknown, nobody) >= 15 and number(model.none_, nobody) <= 5
    seen = np.isin(np.arange(len(truth)), np.flatnonzero(truth < 0)[:20])
    assert number(unknown, seen) <= 2


RESULT = {each.name: None for each in dataclasses.fields(FitResult)} | {
    "judged_on": "cross_validation",
    "judged_images": 0,
}
RESULT |= {"labels": 60, "images": 400, "num_labels": 10, "suspicious_labels": 0, "doubtful_labels": 14, "views": {}}


def test_fit_says_it_and_which_labels_are_worth_a_look():
    found = FitResult(**RESULT | {"none_of_these_interval": [0.25, 0.4]})
    assert judgement_lines(found)[-1].startswith("25% or more of the images without a label")
    said = next_command(found, "pictures")
    assert said.startswith("label the images that teach most: g4i label pictures --pick next; or")
    assert said.endswith("(14): g4i label pictures --pick wrong")
    found = FitResult(**RESULT | {"none_of_these_interval": [0.0, 0.4], "doubtful_labels": 0})
    assert len(judgement_lines(found)) == 1 and next_command(found, "pictures").endswith("--pick next")


def test_labels_that_views_contradict_are_worth_a_look_where_many_may_be_wrong():
    few, truth, views = fitted(0)
    labels = np.where(np.arange(len(truth)) % 60 < 6, truth, -1)
    labels[[0, 60]] = 1, 0
    without = {name: View(np.full_like(view.values, np.nan)) for name, view in views.items()}
    assert not doubtful_labels(few, without, labels)  # nothing contradicts them
    assert few.label_noise_interval_[1] > 0.05 and 2 <= doubtful_labels(few, views, labels) < 10
    many, truth, views = fitted(0, labelled=60)
    assert many.label_noise_interval_[1] < 0.05 and not doubtful_labels(many, views, 0 * truth)


def test_views_of_noise_leave_every_image_its_weight():
    """Hidden classes look like the others, so that none of the images or all of them could belong to no class."""
    rng, truth = np.random.default_rng(0), np.repeat(np.arange(CLASSES), 60)
    views = {name: View(rng.normal(size=(len(truth), DIM)).astype(np.float32)) for name in ("caption", "image")}
    model = LabelModel(CLASSES).fit(views, np.where(np.arange(len(truth)) % 60 < 3, truth, -1))
    assert model.none_share_.interval[1] > 0.9 and model.none_.mean() < 0.2


def test_where_labels_may_all_be_right_their_interval_is_said_alone():
    assert noise_in_words(0.33, (0.0, 0.5)).startswith("0% to 50% of the labels are wrong")
    assert noise_in_words(0.05, (0.03, 0.5)).startswith("5%")
    assert noise_in_words(0.0, (0.0, 0.04)) == "0% to 4% of the labels are wrong (95% interval)"


def without_this_package(folder: Path, images: Path, decisions: list[str]) -> list[str]:
    """As the card says; decisions other than `none` are those given."""
    model = AutoModelForImageClassification.from_pretrained(folder).timm_model.eval()
    processor, score = AutoImageProcessor.from_pretrained(folder), load_file(folder / "none_of_these.safetensors")
    pixels = processor([Image.open(file) for file in sorted(images.iterdir())], return_tensors="pt")
    with torch.no_grad():
        features = model.forward_head(model.forward_features(pixels["pixel_values"]), pre_logits=True)
    found = features @ score["weight"] + score["bias"] > score["threshold"]
    return ["none" if none else each for none, each in zip(found, decisions, strict=True)]


def test_fit_teaches_predict_which_new_images_show_no_class(fitted, tmp_path, capsys):
    """A person has taken out drawings of another kind; the score ships, and says so of new ones."""
    pictures = draw_folder(tmp_path / "pictures", captions=False, train=48)
    new = make.folder(tmp_path / "new", [f"{row:02}.png" for row in range(40)])
    for row in range(40):
        (drawing(row) if row % 2 else make.noise(row, 32)).save(new / f"{row:02}.png")
    lines = []
    for row in range(24):
        make.noise(100 + row, 32).save(pictures / "train" / "circle" / f"n{row}.png")
        lines.append(json.dumps({"file_name": f"train/circle/n{row}.png", "label": None, "none": True}) + "\n")
    (pictures / "labels.jsonl").write_text("".join(lines))
    result = fitted(pictures, tmp_path / "out", group_by="none")
    assert result.finds_none_of_these and "says `none` where a new image" in capsys.readouterr().out
    assert "none_of_these.safetensors" in (result.classifier / "README.md").read_text()
    other = release_student(tmp_path / "out", tmp_path / "released")
    for classifier in (tmp_path / "out", tmp_path / "out" / "with_views", other):
        decisions = predict(classifier, new)["decision"]
        assert decisions[::2].count("none") >= 12 and decisions[1::2].count("none") <= 3
    assert decisions == without_this_package(other, new, decisions)
    score = load_file(other / "none_of_these.safetensors")
    main(["predict", str(other), str(new), "-o", str(tmp_path / "p.csv")])
    assert f"{decisions.count('none')} seem to show none of the classes" in capsys.readouterr().out
    results = tmp_path / "out" / "all_results.json"
    known = json.loads(results.read_text())
    known["decisions"] = [{"precision": 0.95, "threshold": 0.0, "certain": True, "share": 1.0, "gold": None}]
    results.write_text(json.dumps(known))
    for row, file in enumerate(sorted(new.iterdir())):
        place = tmp_path / "labelled" / "test" / ("circle", "cross", "square")[row % 3] / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    main(["evaluate", str(tmp_path / "out"), "--dataset_name", str(tmp_path / "labelled"), "--splits", "test"])
    answered = 40 - predict(tmp_path / "out", new)["decision"].count("none")
    assert f"test: at 95% classifier/ answers {answered} of 40 images" in capsys.readouterr().out
    save_file(score | {"weight": score["weight"][:3]}, other / "none_of_these.safetensors")
    with pytest.raises(ValueError, match="which is no score of 32 features"):
        predict(other, new)
    for row in range(10):
        (pictures / "train" / "circle" / f"n{row + 14}.png").unlink()
    (pictures / "labels.jsonl").write_text("".join(lines[:14]))
    assert not fitted(pictures, tmp_path / "out", group_by="none").finds_none_of_these, "these images are fewer now"
    assert not fitted(pictures, tmp_path / "few", group_by="none").finds_none_of_these
    assert "none" not in predict(tmp_path / "few", new)["decision"]

"""Thresholds above which a classifier answers by itself: what was asked is got, or the threshold is not certain."""

import json
from dataclasses import replace

import make
import numpy as np
import pandas as pd
import pytest
from fitting import results_of
from PIL import Image
from scipy.special import logit
from transformers import AutoConfig

from g4i_hf.evaluation.decisions import PRECISIONS, by_labels, points, threshold_for
from g4i_hf.fitting.judge import Validation
from g4i_hf.fitting.thresholds import decisions_of
from g4i_hf.hub import release_student
from g4i_hf.running import main


def a_classifier(number: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, which are a little too high, and whether each answer is right."""
    confidence = generator.beta(5, 0.5, number)
    return confidence, generator.random(number) < confidence**1.1


@pytest.mark.parametrize("frames", [1, 5])
def test_where_a_threshold_is_certain_new_answers_are_as_right_as_asked(frames):
    """In 95% of draws, also of frames of a scene, which are right or wrong together."""
    got, generator = [], np.random.default_rng(0)
    new, is_right = a_classifier(50_000, generator)
    for _ in range(30):
        confidence, right = (np.repeat(each, frames) for each in a_classifier(500, generator))
        groups = np.repeat(np.arange(500), frames)
        predicted = np.zeros(len(right), dtype=int)
        decision = threshold_for(
            points(confidence, confidence, predicted, by_labels(right, groups), groups), 0.95, 500
        )
        if decision.certain:
            got.append(is_right[new >= decision.threshold].mean() >= 0.95)
    assert len(got) > 25 and np.mean(got) >= 0.95


def test_too_few_judged_images_are_not_certain_and_say_how_many_would_do():
    confidence, right = a_classifier(50, np.random.default_rng(1))
    decision = threshold_for(points(confidence, confidence, 0 * right, by_labels(right)), 0.95, 50)
    assert not decision.certain and decision.threshold > 0.5 and 50 < decision.gold <= 1000
    half = np.arange(50) % 2 == 0
    hopeless = threshold_for(points(np.full(50, 0.5), np.full(50, 0.5), 0 * half, by_labels(half)), 0.95, 50)
    assert hopeless.threshold is None and hopeless.gold is None


def test_where_a_threshold_is_not_certain_probabilities_count_unless_labels_contradict():
    got, generator = [], np.random.default_rng(0)
    for _ in range(100):
        confidence = generator.beta(2, 1, 100)
        judged = by_labels(generator.random(100) < confidence)
        decision = threshold_for(points(confidence, confidence, np.zeros(100, int), judged), 0.9, 100)
        new = generator.beta(2, 1, 20_000)
        if not decision.certain:
            got.append(new[new >= decision.threshold].mean())  # of probabilities that are right
    assert len(got) > 80 and 0.9 < np.mean(got) < 0.914
    wrong = by_labels(np.arange(100) % 4 > 0)
    assert (
        threshold_for(points(np.full(100, 0.92), np.full(100, 0.92), np.zeros(100, int), wrong), 0.9, 100).threshold
        is None
    )


@pytest.mark.parametrize("most_gold", [None, 20])
def test_a_sample_is_proposed_if_scenes_allow_it(most_gold):
    confidence, right = a_classifier(50, np.random.default_rng(1))
    judge = Validation(np.arange(50), np.zeros((50, 1)), np.eye(2)[(~right).astype(int)])
    logits = np.stack([logit(confidence), np.zeros(50)], axis=1)
    _, decisions = decisions_of(judge, "with_views", logits, most_gold)
    proposed = [each.gold for each in decisions if not each.certain]
    assert any(proposed) == (most_gold is None)


def test_a_threshold_for_a_higher_precision_is_not_lower():
    """A certain one for 90% stops early, where unreviewed probabilities alone promise 95% of all images."""
    confidence = np.linspace(1, 0.5, 400)
    candidates = points(confidence, np.full(400, 0.97), np.zeros(400, dtype=int), None)
    candidates = [replace(point, low=0.92, images=400, expected=1.0) for point in candidates[:2]] + candidates[2:]
    at_90 = threshold_for(candidates, 0.9, 400)
    at_95 = threshold_for(candidates, 0.95, 400, least=at_90.threshold)
    assert at_90.certain and not at_95.certain and at_95.threshold == at_90.threshold
    assert threshold_for(candidates, 0.95, 400).threshold < at_90.threshold  # alone


def test_without_labels_99_percent_are_not_certain():
    right = np.ones(2_000, dtype=bool)
    candidates = points(np.linspace(0.5, 1, 2_000), np.ones(2_000), 0 * right, by_labels(right))
    certain = {
        has_labels: [threshold_for(candidates, each, 2_000, has_labels=has_labels).certain for each in PRECISIONS]
        for has_labels in (True, False)
    }
    assert certain == {True: [True, True, True], False: [True, True, False]}


def test_a_fit_leaves_thresholds_that_predict_uses(fitted, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    for row in range(150):
        file = pictures / ("validation" if row < 120 else "train") / ("green", "red")[row % 2] / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        tint = Image.new("RGB", (32, 32), (200, 20, 20) if row % 2 else (20, 200, 20))
        Image.blend(tint, make.noise(row, 32), 0.3).save(file)
    result = fitted(pictures, tmp_path / "out", group_by="none")
    decisions = {each["precision"]: each for each in results_of(tmp_path / "out")["decisions"]}
    assert list(decisions) == list(PRECISIONS) and result.decisions == [*decisions.values()]
    known = AutoConfig.from_pretrained(result.classifier).decision_thresholds
    usual = decisions[0.95]
    assert usual["certain"] and known["0.95"] == {name: usual[name] for name in known["0.95"]}
    line = f"At 95% it answers {usual['share']:.0%} of images like yours"
    assert line in capsys.readouterr().out and line in (tmp_path / "out" / "report.html").read_text()
    assert 'decision_thresholds["0.95"]["threshold"]' in (result.classifier / "README.md").read_text()
    main(["predict", str(tmp_path / "out"), str(pictures), "--split", "validation", "-o", str(tmp_path / "p.csv")])
    assert "training images" not in capsys.readouterr().out
    main(["predict", str(tmp_path / "out"), str(pictures / "train"), "-o", str(tmp_path / "seen.csv")])
    assert "30 of the images were training images" in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "p.csv")
    assert (rows["decision"] == np.where(rows["probability"] >= usual["threshold"], "answer", "ask")).all()
    assert [*result.predict(pictures / "validation")["decision"]] == rows["decision"].tolist()
    other = release_student(tmp_path / "out", tmp_path / "released")
    assert json.loads((other / "config.json").read_text())["decision_thresholds"] == known

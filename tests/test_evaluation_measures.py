"""Measures of evaluation beside accuracy: calibration, retrieval both ways, classes by texts, probes; their table."""

import logging
import re
from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
import torch
from datasets import Dataset
from students import aligned_model
from torch import nn

from g4i_hf.embedding import EncoderArguments, encoders
from g4i_hf.evaluation import calibration, probes, zero_shot
from g4i_hf.evaluation.comparison import as_markdown, as_text, compare
from g4i_hf.evaluation.evaluate import split_metrics, update_results
from g4i_hf.evaluation.measures import ALL_MEASURES, FIGURES
from g4i_hf.evaluation.metrics import Accuracy, RetrievalRecall, TextToImageRecall, text_to_image_recall
from g4i_hf.evaluation.predict import Predictions
from g4i_hf.modeling.student import classifier_layers
from g4i_hf.options import CHEAP_MEASURES, EvaluateArguments

EYE = np.eye(4, dtype=np.float32)


def predictions(embeds, labels=None, **more) -> Predictions:
    n = len(embeds)
    labels = np.zeros(n, dtype=np.int64) if labels is None else np.asarray(labels)
    defaults = {"logits": np.zeros((n, 4), dtype=np.float32), "image_embeds": np.asarray(embeds, dtype=np.float32)}
    return Predictions([str(row) for row in range(n)], labels, **defaults | more)


# --- Calibration ----------------------------------------------------------------------------------------------------

# Confidences 0.6 (on an edge of the bins), 0.55, 0.9, 0.9; right, wrong, right, wrong
PROBABILITIES = np.array([[0.6, 0.4], [0.45, 0.55], [0.9, 0.1], [0.1, 0.9]])
LABELS = np.array([0, 0, 0, 0])
ECE = (abs(1 - 0.6 - 0.55) + abs(1 - 0.9 - 0.9)) / 4
NLL = -np.log([0.6, 0.45, 0.9, 0.1]).mean()
BRIER = np.mean([2 * 0.4**2, 2 * 0.55**2, 2 * 0.1**2, 2 * 0.9**2])


def test_calibration_of_probabilities_made_by_hand():
    """0.6 is the upper edge of the ninth of fifteen bins, in which 0.55 lies too."""
    assert calibration.expected_calibration_error(PROBABILITIES, LABELS) == pytest.approx(ECE)
    assert calibration.expected_calibration_error(PROBABILITIES, LABELS, num_bins=1) == pytest.approx(
        abs(2 - 2.95) / 4
    )
    assert calibration.negative_log_likelihood(PROBABILITIES, LABELS) == pytest.approx(NLL)
    assert calibration.brier_score(PROBABILITIES, LABELS) == pytest.approx(BRIER)
    assert calibration.negative_log_likelihood(np.array([[0.0, 1.0]]), np.array([0])) < 1000


def test_bins_of_equal_mass_hold_as_many_images_and_equal_confidences_together():
    rng = np.random.default_rng(0)
    confidence = np.sort(rng.uniform(0.5, 1, 30))
    labels = rng.integers(0, 2, 30)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    pairs = ((labels == 0) - confidence).reshape(15, 2)
    expected = np.abs(pairs.sum(1)).sum() / 30
    assert calibration.adaptive_calibration_error(probabilities, labels) == pytest.approx(expected)
    alike = np.tile([[0.5, 0.5]], (4, 1))
    for order in ([0, 0, 1, 1], [0, 1, 0, 1]):
        assert calibration.adaptive_calibration_error(alike, np.array(order), num_bins=2) == 0


def test_a_softmax_of_large_logits_has_finite_figures():
    found = calibration.calibration_metrics(np.array([[1e4, -1e4], [0, 0]], dtype=np.float32), np.array([1, 0]))
    assert all(np.isfinite(value) for value in found.values()) and found["brier"] == pytest.approx((2 + 0.5) / 2)


def test_metrics_of_probabilities_combine():
    metrics = [calibration.ExpectedCalibrationError(), calibration.AdaptiveCalibrationError()]
    metrics += [calibration.NegativeLogLikelihood(), calibration.BrierScore(), Accuracy()]
    found = evaluate.combine(metrics).compute(predictions=PROBABILITIES, references=LABELS)
    adaptive = (abs(1 - 0.6) + abs(-0.55) + abs(1 - 0.9 - 0.9)) / 4  # both of 0.9 share a bin
    wanted = {"ece": ECE, "adaptive_ece": adaptive, "nll": NLL, "brier": BRIER, "accuracy": 0.5}
    assert found == pytest.approx(wanted)
    in_batches = evaluate.combine(metrics)
    for rows in (slice(0, 1), slice(1, 4)):
        in_batches.add_batch(predictions=PROBABILITIES[rows], references=LABELS[rows])
    assert in_batches.compute() == found
    assert Accuracy().compute(predictions=[0, 1], references=[0, 0]) == {"accuracy": 0.5}


# --- Retrieval ------------------------------------------------------------------------------------------------------


def test_any_image_of_a_caption_is_right():
    """Images 0 and 2 have one caption: image 2 is found for it. The caption of image 1 finds image 0."""
    images = np.stack([EYE[1], EYE[3], EYE[0]])
    found = text_to_image_recall(images, EYE[[0, 1, 0]], ks=(1,))
    wanted = {"recall_at_1": 0.5, "chance_at_1": (2 / 3 + 1 / 3) / 2, "gallery_size": 3}
    assert found == pytest.approx({f"text_to_image_{name}": value for name, value in wanted.items()})


def test_a_tie_with_the_image_of_another_caption_is_a_miss_and_one_among_its_own_is_none():
    assert text_to_image_recall(EYE[[0, 0]], EYE[[0, 1]], ks=(1,))["text_to_image_recall_at_1"] == 0
    assert text_to_image_recall(EYE[[0, 0, 1]], EYE[[0, 0, 1]], ks=(1,))["text_to_image_recall_at_1"] == 1


def test_retrieval_both_ways_combines():
    both = evaluate.combine([RetrievalRecall(), TextToImageRecall()])
    found = both.compute(predictions=EYE[[0, 2, 1]], references=EYE[[0, 1, 1]])
    assert found["recall_at_1"] == pytest.approx(2 / 3) and found["gallery_size"] == 2
    assert found["text_to_image_recall_at_1"] == 1 and found["text_to_image_gallery_size"] == 3


# --- Classes by their texts -----------------------------------------------------------------------------------------


def test_a_class_is_the_mean_of_its_distinct_captions():
    """
    Class 0 has the captions x, x again, and y: with x counted twice the diagonal image would be nearer to class 1.
    The row without label and the class without captions are left out.
    """
    one = np.float32([0.5, np.sqrt(0.75), 0, 0])
    captions = ["x", "x", "y", "z", "nobody's", None]
    texts = [EYE[0], EYE[0], EYE[1], one, EYE[3], None]
    split = Dataset.from_dict({"caption": captions, "text_embeds": [None if t is None else t.tolist() for t in texts]})
    image = np.float32([0.72, 0.69, 0, 0])
    embeds = [image, EYE[0], EYE[3], EYE[1], EYE[3], EYE[3]]
    found = zero_shot.zero_shot_metrics(predictions(embeds, [0, 0, 0, 1, -100, 2]), split)
    # the diagonal one, x and z are right; the third row is at right angles to both classes: a tie, so a miss
    wanted = {"zero_shot_captions_accuracy": 3 / 4, "zero_shot_captions_chance": 1 / 2}
    assert found == pytest.approx(wanted)


def test_classes_by_names_are_those_that_the_split_shows():
    """Class 2, which image 1 is nearest to, is not in the split."""
    found = zero_shot.zero_shot_metrics(
        predictions([EYE[0], EYE[2] + 0.1 * EYE[1]], [0, 1]), Dataset.from_dict({"image_id": ["a", "b"]}), EYE[:3]
    )
    assert found == {"zero_shot_names_accuracy": 1.0, "zero_shot_names_chance": 0.5}
    other_size = zero_shot.zero_shot_metrics(
        predictions(EYE[:2]), Dataset.from_dict({"image_id": ["a", "b"]}), EYE[:, :3]
    )
    assert other_size == {}


def test_class_names_are_embedded_as_captions_are(monkeypatch, caplog):
    class Encoder:
        dim, max_tokens = 2, None

        def count_tokens(self, captions):
            return [len(caption) for caption in captions]

        def encode(self, captions):
            return np.array([[len(caption), caption.count(" ")] for caption in captions])

    def load(name, revision, device, *, prompt, prompt_name):
        assert (name, prompt) == ("an/encoder", "p: ")
        return Encoder()

    args = EncoderArguments(text_encoder="an/encoder", text_encoder_prompt="p: ", text_encoder_batch_size=1)
    monkeypatch.setattr(encoders, "load_encoder", load)
    assert zero_shot.embeds_of_class_names({1: "hot-dog", 0: "a"}, args, "cpu").tolist() == [[1, 0], [7, 1]]

    def fail(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(encoders, "load_encoder", fail)
    with caplog.at_level(logging.INFO):
        assert zero_shot.embeds_of_class_names({0: "a"}, args, "cpu") is None
        assert zero_shot.embeds_of_class_names({0: "a"}, EncoderArguments(), "cpu") is None
    assert "no connection" in caplog.text and "text_encoder" in caplog.text


# --- Probes ---------------------------------------------------------------------------------------------------------


def separable(n: int, seed: int) -> Predictions:
    """The class is the sign of one feature; the others are noise of a far larger scale."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    features = rng.normal(scale=[1e-3, 1, 100], size=(n, 3))
    features[:, 0] = (2 * labels - 1) * rng.uniform(1e-3, 2e-3, n)
    return predictions(np.zeros((n, 2)), labels, features=features.astype(np.float32))


def test_a_linear_probe_finds_what_separates_whatever_its_scale():
    training, evaluated = separable(200, seed=0), separable(60, seed=1)
    evaluated.labels[0] = training.labels[0] = -100
    found = probes.Probes(training).metrics(evaluated)
    assert found["linear_probe_accuracy"] == 1.0 and found["probe_samples"] == 199
    assert found["linear_probe_c"] in probes.STRENGTHS_OF_PENALTY
    assert 0.3 < found["knn_1_accuracy"] < 0.8  # distances are those of the noise


def test_neighbours_are_near_by_angle_and_vote():
    """Two of class 0 and one of class 1; the nearest one of the second image is of class 1, the majority is not."""
    directions = np.float32([[1, 0], [0.9, 0.4], [0.8, 0.6]])
    training = predictions(np.zeros((3, 2)), [0, 0, 1], features=10 * directions)
    evaluated = predictions(np.zeros((2, 2)), [0, 1], features=np.float32([[5, 0.1], [0.7, 0.7]]))
    found = probes.Probes(training).metrics(evaluated)
    assert found["knn_1_accuracy"] == 1.0 and found["knn_20_accuracy"] == 0.5


def test_c_is_chosen_on_rows_that_the_candidates_were_not_fitted_on(monkeypatch):
    """A stand-in that is best at C = 0.01, and remembers rows, which are known by their third feature."""
    fitted, scored = [], []

    class Probe:
        def __init__(self, penalty, features, labels):
            fitted.append((penalty, set(features[:, 2])))
            self.penalty = penalty

        def score(self, features, labels):
            scored.append(set(features[:, 2]))
            return 0.9 if self.penalty == 0.01 else 0.8

        def __getitem__(self, _):
            return SimpleNamespace(n_iter_=np.array([1]))

    monkeypatch.setattr(probes, "_fitted", Probe)
    training = separable(100, seed=0)
    probe, rows = probes.Probes(training), set(training.features[:, 2])
    assert [penalty for penalty, _ in fitted] == [*probes.STRENGTHS_OF_PENALTY, 0.01] and probe.penalty == 0.01
    for (_, used), held_out in zip(fitted, scored, strict=False):
        assert len(held_out) == 20 and used == rows - held_out
    assert fitted[-1][1] == rows


def test_probes_without_labels_or_with_a_single_class():
    one_class = predictions(np.zeros((3, 2)), [1, 1, 1], features=EYE[:3])
    found = probes.Probes(one_class).metrics(one_class)
    assert found == {"probe_samples": 3, "knn_1_accuracy": 1.0, "knn_20_accuracy": 1.0}
    unlabelled = predictions(np.zeros((3, 2)), [-100] * 3, features=EYE[:3])
    assert probes.Probes(one_class).metrics(unlabelled) == {}
    with pytest.raises(ValueError, match="has no labels.*Leave probe out"):
        probes.Probes(unlabelled)


@pytest.mark.parametrize("name", ["timm-resnet", "timm-mobilenetv3", "swin", "deit-two-heads"])
def test_the_feature_is_an_output_on_request(name):
    model = aligned_model(name).eval()
    for parameter in model.student.parameters():  # fresh tokens are zero, and both heads would see the same
        nn.init.normal_(parameter, std=0.1)
    inputs, pixels = [], torch.randn(3, 3, 48, 48)
    for layer in classifier_layers(model.student):
        layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(1)))
    with torch.no_grad():
        output = model(pixels, output_features=True)
    torch.testing.assert_close(output.features, sum(inputs) / len(inputs))
    assert output.image_embeds is None and model(pixels).features is None
    both = model(pixels, output_image_embeds=True)
    torch.testing.assert_close(both.image_embeds, nn.functional.normalize(model.projector(output.features), dim=-1))
    assert both.features is None


# --- Options, figures and their table -------------------------------------------------------------------------------


def test_measures_are_named_in_one_word_or_several():
    def measures(*words):
        return EvaluateArguments(run="run", measures=list(words) or None).measures

    assert measures() == ["text_to_image", "calibration", "zero_shot"]
    assert measures("robustness,probe", "probe") == ["probe", "robustness"]
    assert measures("all") == [*measures(), "probe", "robustness", "speed"] and measures("none") == []
    with pytest.raises(ValueError, match="measures is 'prob'; choose one of .*Did you mean 'probe'"):
        measures("prob")
    with pytest.raises(ValueError, match="none alone"):
        measures("none", "probe")
    with pytest.raises(ValueError, match="probe_samples is 0"):
        EvaluateArguments(run="run", probe_samples=0)


def test_all_figures_of_a_split_are_known_and_replaced(tmp_path):
    split = Dataset.from_dict({"image_id": list("abcd"), "text_embeds": EYE.tolist()})
    labelled = predictions(EYE, [0, 1, 2, -100], features=EYE)
    found = split_metrics(labelled, split, "test", CHEAP_MEASURES, name_embeds=EYE, probes=probes.Probes(labelled))
    figures = {name.removeprefix("test_") for name in found}
    not_of_split_metrics = {
        figure for figure in FIGURES if re.match("weights|bad|blur|noise|contrast|jpeg|corr|int8", figure)
    }
    assert figures == set(FIGURES) - not_of_split_metrics
    assert found["test_ece"] == pytest.approx(1 / 3 - 1 / 4)  # unlabelled rows do not count
    update_results(tmp_path, {f"test_{figure}": 0.5 for figure in FIGURES} | {"test_novel_ece": 0.1})
    assert update_results(tmp_path, {}, splits=["test"]) == {"test_novel_ece": 0.1}


def test_without_labels_and_captions_there_is_little_to_say():
    split = Dataset.from_dict({"image_id": list("ab")})
    found = split_metrics(predictions(EYE[:2], [-100, -100]), split, "test", CHEAP_MEASURES, name_embeds=EYE)
    assert found == {"test_samples": 2}


def test_the_table_has_headings_and_marks_what_should_be_low():
    aligned = {"v_accuracy": 0.5, "v_ece": 0.1, "v_nll": 2.5, "v_zero_shot_names_accuracy": 0.2}
    aligned["v_zero_shot_names_chance"] = 0.05
    baseline = {"v_accuracy": 0.5, "v_ece": 0.15, "v_nll": 2.0}
    rows = compare(aligned, baseline, ["v"], ALL_MEASURES)
    assert [row.is_better for row in rows] == [None, None, True, False]
    lines = [" ".join(line.split()) for line in as_text(rows).splitlines()]
    assert lines[1] == "accuracy v 50.0 50.0 +0.0" and "classes by names v 20.0 (chance 5.0)" in lines
    heading = lines.index("Calibration of the classifier")
    assert lines[heading - 1] == "" and lines[heading + 1 : heading + 3] == [
        "ECE ↓ v 15.0 10.0 -5.0",
        "NLL, nats ↓ v 2.000 2.500 +0.500",
    ]
    assert "less is better" in lines[-1] and "less is better" not in as_text(rows[:2])
    assert "| NLL, nats ↓ | v | 2.000 | 2.500 | +0.500 |" in as_markdown(rows)
    assert [row.measure for row in compare(aligned, None, ["v"])] == ["accuracy"]  # what a card shows

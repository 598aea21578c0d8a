"""Figures of a split."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image as PILImage

from g4i_hf.evaluation.evaluate import results_folder, split_metrics, update_results
from g4i_hf.evaluation.metrics import retrieval_recall
from g4i_hf.evaluation.predict import Predictions, texts_of
from g4i_hf.evaluation.statistics import paired_summary
from g4i_hf.modeling.processing import EvalTransform, ImageSettings, generic_processor
from g4i_hf.training.build import accuracy_of_logits

EYE = np.eye(4, dtype=np.float32)


def test_accuracy_leaves_unlabelled_rows_out():
    prediction = SimpleNamespace(predictions=EYE[:3], label_ids=np.array([0, 2, -100]))
    assert accuracy_of_logits(prediction) == {"accuracy": 0.5}


def test_a_tie_in_retrieval_is_a_miss_and_equal_captions_are_one_entry():
    images = np.stack([EYE[0], (EYE[0] + EYE[1]) / np.sqrt(2), EYE[2]])
    found = retrieval_recall(images, EYE[[0, 1, 0]], ks=(1,))
    assert found == {"recall_at_1": pytest.approx(1 / 3), "chance_at_1": 0.5, "gallery_size": 2}


@pytest.mark.parametrize("dim, measured", [(4, True), (3, False)])
def test_retrieval_is_left_out_where_the_projector_has_another_size(dim, measured):
    split = Dataset.from_dict({"image_id": ["a", "b"], "text_embeds": EYE[:2, :4].tolist()})
    predictions = Predictions(["a", "b"], np.array([0, 1]), EYE[:2], EYE[:2, :dim])
    metrics = split_metrics(predictions, split, "test")
    assert metrics["test_accuracy"] == 1.0 and ("test_recall_at_1" in metrics) == measured


def test_paired_summary_against_values_worked_out_by_hand():
    summary = paired_summary([0.50, 0.52, 0.51], [0.53, 0.54, 0.55])  # differences 3, 2, 4 points, sd 1
    assert summary.difference == pytest.approx(0.03) and summary.improved == 3
    assert summary.high - summary.difference == pytest.approx(4.3027 * 0.01 / np.sqrt(3), rel=1e-4)


def test_of_several_captions_the_nearest_counts():
    """Image 0 has captions 0 and 1, image 1 has caption 2; image 0 is nearest to its second caption."""
    images = np.stack([EYE[1], EYE[3]])
    found = retrieval_recall(images, EYE[:3], ks=(1, 2), owners=np.array([0, 0, 1]))
    assert found["recall_at_1"] == 0.5 and found["gallery_size"] == 3
    assert found["chance_at_1"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert found["chance_at_2"] == pytest.approx((1 + 2 / 3) / 2)


def test_texts_are_centred_where_the_model_centres_them():
    """Both captions have much in common; without it they are at right angles."""
    split = Dataset.from_dict({"image_id": ["a", "b"], "text_embeds": [[0.8, 0.6, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]})
    mean = np.float32([0.8, 0, 0, 0])
    centred = Predictions(["a", "b"], np.array([0, 1]), EYE[:2], EYE[[1, 0]], mean)
    np.testing.assert_allclose(texts_of(split, centred).embeds, EYE[[1, 0]], atol=1e-3)
    assert split_metrics(centred, split, "test")["test_recall_at_1"] == 1.0


def test_new_figures_of_a_split_replace_all_of_its_old_ones(tmp_path):
    update_results(tmp_path, {"test_recall_at_1": 0.5, "test_novel_recall_at_1": 0.4, "train_loss": 1.0})
    update_results(tmp_path, {"test_accuracy": 0.9}, splits=["test"])
    found = update_results(tmp_path, {})
    assert found == {"test_novel_recall_at_1": 0.4, "train_loss": 1.0, "test_accuracy": 0.9}


def test_figures_go_into_the_run_only_for_its_own_data(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    own = {"dataset_name": "../../pictures"}
    assert results_folder(run, own, {"dataset_name": "pictures/"}) == run
    assert results_folder(run, own, {"dataset_name": "user/pictures"}) == run / "evaluations" / "user_pictures"
    hub = {"dataset_name": "user/pictures", "dataset_revision": "v1"}
    assert results_folder(run, hub, hub) == run
    assert results_folder(run, hub, hub | {"dataset_revision": "v2"}) == run / "evaluations" / "user_pictures-v2"


def test_transform_of_evaluation_can_go_to_other_processes():
    transform = pickle.loads(pickle.dumps(EvalTransform(generic_processor(ImageSettings(16)))))
    assert transform(PILImage.new("RGB", (20, 30))).shape == (3, 16, 16)


def test_retrieval_in_blocks_is_retrieval_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(50, 4)).astype(np.float32), rng.normal(size=(120, 4)).astype(np.float32)
    owners = np.concatenate([np.arange(50), rng.integers(0, 50, 70)])
    whole = retrieval_recall(images, texts, owners=owners)
    cosines = images @ texts.T
    best = np.array([cosines[i, owners == i].max() for i in range(50)])
    assert whole["recall_at_5"] == np.mean((cosines >= best[:, None]).sum(1) <= 5)
    monkeypatch.setattr("g4i_hf.evaluation.metrics.BLOCK", 7)
    assert retrieval_recall(images, texts, owners=owners) == whole


def test_nan_is_no_hit():
    with pytest.raises(ValueError, match="NaN or infinite"):
        retrieval_recall(np.full((2, 4), np.nan), EYE[:2])


def test_a_caption_that_is_the_mean_itself_gives_numbers():
    split = Dataset.from_dict({"image_id": ["a"], "text_embeds": [[1.0, 0.0, 0.0, 0.0]]})
    predictions = Predictions(["a"], np.array([0]), EYE[:1], EYE[:1], EYE[0])
    assert np.isfinite(texts_of(split, predictions).embeds).all()

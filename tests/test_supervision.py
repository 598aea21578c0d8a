"""What training learns from captions beside alignment: soft labels, pseudo-labels, and labels that are put right."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from safetensors.torch import load_file

from g4i_hf import CaptionClassifier
from g4i_hf.cli import build_options, parse_options
from g4i_hf.commands.train import OPTIONS
from g4i_hf.data import CaptionedImages
from g4i_hf.data.checks import labels_of
from g4i_hf.data.dataset import AlignmentCollator
from g4i_hf.options import RunArguments, learned_from_captions
from g4i_hf.running import main
from g4i_hf.supervision import supervise as supervision
from g4i_hf.supervision.supervise import Supervised, supervise
from g4i_hf.workflows.train import TrainingRun

CLASSES, DIM, ROWS = ["ant", "bee", "cat", "dog", "elk"], 8, 400
TRUTH = np.arange(ROWS) % len(CLASSES)
OLDER = Path(__file__).parent / "contract" / "fixtures_0_1"


def vectors(truth: np.ndarray, spread: float = 0.2, seed: int = 0) -> np.ndarray:
    """Of each class near an axis; a spread of 0.2 leaves no doubt, one of 100 tells nothing."""
    found = np.eye(DIM)[truth] + spread * np.random.default_rng(seed).normal(size=(len(truth), DIM))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def captioned(labels: np.ndarray, embeds: np.ndarray, **columns: tuple) -> Dataset:
    """Rows without a caption have NaN embeddings; `columns`: name -> values, feature."""
    features = {"label": ClassLabel(names=CLASSES), "image_id": Value("string")}
    features["text_embeds"] = List(Value("float16"), length=embeds.shape[1])
    rows = {
        "label": [label if label >= 0 else None for label in np.asarray(labels).tolist()],
        "image_id": [f"id-{row}" for row in range(len(labels))],
        "text_embeds": [None if np.isnan(vector).any() else vector.tolist() for vector in embeds],
    }
    for name, (values, feature) in columns.items():
        rows[name], features[name] = values, feature
    return Dataset.from_dict(rows, features=Features(features))


def supervised(split: Dataset, folder=None, soft_label_weight=None, image_features=None, **options) -> Supervised:
    more = {"folder": folder, "soft_label_weight": soft_label_weight}
    features = None if image_features is None else lambda: image_features
    return supervise(split, RunArguments(**options), num_labels=len(CLASSES), seed=0, image_features=features, **more)


def few(count: int, truth: np.ndarray = TRUTH) -> np.ndarray:
    """Labels of the first rows; the others have none."""
    return np.where(np.arange(len(truth)) < count, truth, -100)


def half_wrong(truth: np.ndarray = TRUTH, share: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(1)
    others = (truth + rng.integers(1, len(CLASSES), len(truth))) % len(CLASSES)
    return np.where(rng.random(len(truth)) < share, others, truth)


def soft_of(split: Dataset) -> np.ndarray:
    return np.asarray(split["soft_labels"][:], dtype=np.float32)


# --- Chosen by estimates ---------------------------------------------------------------------------------------------

USELESS, GOOD, SEEN = vectors(TRUTH, 100), vectors(TRUTH), vectors(TRUTH, seed=1)
OTHERS = vectors(np.random.default_rng(0).permutation(TRUTH), seed=1)
# Captions, labels, image features -> supervision, and what the two lines say
CHOSEN = {
    "few labels": (GOOD, few(100), None, "pseudo", ("100% of held-out", "75% of the training images")),
    "few labels, useless captions": (USELESS, few(100), None, "none", ("Estimates", "wrong too often")),
    "half of the labels wrong": (GOOD, half_wrong(), None, "soft", ("95% interval", "right more often")),
    "wrong labels, useless captions": (USELESS, half_wrong(), None, "none", ("Estimates", "alignment alone")),
    "labels better than captions": (
        *(vectors(TRUTH, 0.5), half_wrong(share=0.2), None, "none"),
        ("95% interval", "alignment alone"),
    ),
    "all labels right": (GOOD, TRUTH, None, "none", ("0% of the labels are wrong", "alignment alone")),
    "one label a class": (GOOD, few(5), None, "none", ("no class has two labels", "alignment alone")),
    "one label a class, views agree": (GOOD, few(5), SEEN, "pseudo", ("image features agree on 9", "no label")),
    "one label a class, views differ": (GOOD, few(5), OTHERS, "none", ("captions and image features", "alignment")),
    "images tell as much": (GOOD, few(100), SEEN, "none", ("image features of 100%", "alignment alone")),
    "images tell less": (vectors(TRUTH, 0.6), few(200), vectors(TRUTH, 0.9), "pseudo", ("both together", "no label")),
}


@pytest.mark.parametrize("case", CHOSEN)
def test_auto_chooses_by_estimates_and_says_why(case):
    embeds, labels, features, kind, said = CHOSEN[case]
    found = supervised(captioned(labels, embeds), image_features=features, supervision="auto")
    assert (found.plan.supervision, found.plan.label_noise) == (kind, "keep"), found.plan.reasons
    assert found.plan.soft_label_weight == (3 if kind == "soft" else 0) and found.facts["supervision"] == kind
    first, second = found.plan.reasons
    assert first.startswith("Estimates: ") and second.startswith(f"supervision: {kind}, as ")
    assert said[0] in first and said[1] in second
    assert ("soft_labels" in found.split.column_names) == (kind == "soft")
    if kind == "none":
        assert found.split["label"][:] == captioned(labels, embeds)["label"][:]


def test_auto_softens_wrong_labels_beside_pseudo_labels():
    labels = half_wrong(share=0.3)
    labels[300:] = -100
    found = supervised(captioned(labels, GOOD), supervision="auto")
    assert (found.plan.supervision, found.plan.label_noise) == ("pseudo", "soften")
    learned, soft = labels_of(found.split), soft_of(found.split)
    assert (learned[300:] == TRUTH[300:]).mean() > 0.95
    wrong = np.flatnonzero(labels[:300] != TRUTH[:300])
    assert (learned[wrong] < 0).mean() > 0.8 and (soft[wrong].argmax(1) == TRUTH[wrong])[learned[wrong] < 0].all()
    assert found.plan.soft_label_weight == 1


def test_what_is_asked_for_is_not_overruled():
    found = supervised(captioned(few(100), USELESS), supervision="pseudo")
    assert found.plan.supervision == "pseudo" and (labels_of(found.split) >= 0).all() and not found.plan.reasons
    found = supervised(captioned(half_wrong(), GOOD), supervision="auto", label_noise="relabel")
    assert (found.plan.supervision, found.plan.label_noise) == ("soft", "relabel")
    for weight in (0.5, 0.0):
        given = {"supervision": "auto", "soft_label_weight": weight}
        assert supervised(captioned(half_wrong(), GOOD), **given).plan.soft_label_weight == weight


# --- Labels and soft labels ------------------------------------------------------------------------------------------


def irregular() -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Row 0 has no caption, nor has 1, which has no label either; 2 and 3 have a caption that is not trusted."""
    labels, embeds = TRUTH[:90].copy(), GOOD[:90].copy()
    labels[[1, 3, *range(60, 90)]] = -100
    embeds[:2] = np.nan
    weights = [0.0 if row in (2, 3) else 0.5 if row == 4 else None for row in range(90)]
    return captioned(labels, embeds, caption_weight=(weights, Value("float32"))), labels, embeds


def test_soft_labels_are_the_probabilities_out_of_fold():
    split, labels, embeds = irregular()
    found = supervised(split, supervision="soft")
    assert found.split["label"][:] == split["label"][:]
    feature = found.split.features["soft_labels"]
    assert feature.length == len(CLASSES) and feature.feature.dtype == "float16"
    soft = soft_of(found.split)
    assert not soft[:4].any(), "no caption, none that is trusted"
    expected = CaptionClassifier(len(CLASSES), seed=0).fit(embeds[4:].astype(np.float16), labels[4:])
    np.testing.assert_allclose(soft[4:], expected.out_of_fold_, atol=1e-3)
    np.testing.assert_allclose(soft[4:].sum(1), 1, atol=2e-3)
    assert found.plan.soft_label_weight == 1
    assert supervised(split, supervision="soft", soft_label_weight=2.5).plan.soft_label_weight == 2.5


def test_pseudo_labels_are_for_rows_with_a_caption_and_no_label():
    split, labels, _ = irregular()
    found = supervised(split, supervision="pseudo")
    learned = labels_of(found.split)
    assert (learned[:60] == labels[:60]).all() and (learned[60:] == TRUTH[60:90]).all()
    assert found.split.features == split.features and found.split["text_embeds"][:] == split["text_embeds"][:]
    assert found.plan.soft_label_weight == 0, "no row has soft labels"


def test_several_captions_count_by_their_mean():
    """Of each row one is of its class and one of another, but the mean is nearer to its own."""
    one, other = vectors(TRUTH, 0.1), 0.3 * vectors((TRUTH + 1) % len(CLASSES), 0.1, seed=1)
    split = captioned(few(200), np.zeros((ROWS, DIM))).remove_columns("text_embeds")
    split = split.add_column(
        "text_embeds",
        [[a.tolist(), b.tolist()] for a, b in zip(one, other, strict=True)],
        feature=List(List(Value("float16"), length=DIM)),
    )
    assert (labels_of(supervised(split, supervision="pseudo").split) == TRUTH).all()


def contradicted() -> tuple[Dataset, np.ndarray, np.ndarray]:
    """An eighth of the labels is wrong, row 0 of them has no caption; captions tell all of them. Row 1 has none."""
    labels, embeds, wrong = TRUTH.copy(), GOOD.copy(), np.arange(0, ROWS, 8)
    labels[wrong] = (labels[wrong] + np.random.default_rng(0).integers(1, 5, len(wrong))) % len(CLASSES)
    labels[1], embeds[0] = -100, np.nan
    return captioned(labels, embeds), labels, wrong[1:]


def test_labels_that_captions_contradict_are_softened():
    split, labels, wrong = contradicted()
    found = supervised(split, label_noise="soften")
    learned, soft = labels_of(found.split), soft_of(found.split)
    assert (
        np.flatnonzero(learned < 0).tolist() == [1, *wrong] and np.flatnonzero(soft.any(1)).tolist() == wrong.tolist()
    )
    assert (soft[wrong].argmax(1) == TRUTH[wrong]).all() and (soft[wrong].max(1) > 0.5).all()
    kept = learned >= 0
    assert (learned[kept] == labels[kept]).all() and learned[0] == labels[0]
    assert (found.plan.supervision, found.plan.soft_label_weight) == ("none", 1)
    low, high = found.facts["label_noise_interval"]
    assert low < 1 / 8 < high
    assert supervised(split, label_noise="soften", soft_label_weight=0.3).plan.soft_label_weight == 0.3
    dropped = supervised(split, label_noise="soften", unlabelled="drop").split
    assert soft_of(dropped).any(1).sum() == len(wrong) and len(dropped) == len(split) - 1  # the one without a label


def test_labels_that_captions_contradict_are_replaced():
    split, labels, wrong = contradicted()
    found = supervised(split, label_noise="relabel")
    learned = labels_of(found.split)
    assert (learned[2:] == TRUTH[2:]).all() and learned[:2].tolist() == labels[:2].tolist()
    assert found.split.features == split.features and found.plan.soft_label_weight == 0


def test_with_soft_labels_every_caption_teaches():
    split, _, wrong = contradicted()
    for kind in ("soften", "relabel"):
        found = supervised(split, supervision="soft", label_noise=kind)
        assert soft_of(found.split).any(1).tolist() == [False, *[True] * (ROWS - 1)]
        assert (labels_of(found.split)[wrong] < 0).all() == (kind == "soften")


def test_labels_that_are_right_stay():
    split = captioned(TRUTH, GOOD)
    for kind in ("soften", "relabel", "keep"):
        found = supervised(split, label_noise=kind)
        assert labels_of(found.split).tolist() == TRUTH.tolist() and "soft_labels" not in found.split.column_names
        assert found.plan.soft_label_weight == 0


def test_without_supervision_nothing_is_estimated(monkeypatch):
    monkeypatch.setattr(supervision, "CaptionClassifier", None)
    split = captioned(few(100), USELESS)
    found = supervised(split)
    assert found.split is split and found.facts == {"supervision": "none"}
    assert len(supervised(split, unlabelled="drop").split) == 100
    assert supervised(split, label_noise="keep").split is split


def test_rows_without_label_are_dropped_after_captions_gave_them_one():
    labels, embeds = few(100), GOOD.copy()
    embeds[200:] = np.nan
    found = supervised(captioned(labels, embeds), supervision="pseudo", unlabelled="drop")
    assert labels_of(found.split).tolist() == TRUTH[:200].tolist()


@pytest.mark.parametrize("options", [{"supervision": "auto"}, {"supervision": "soft"}, {"label_noise": "soften"}])
def test_without_embeddings_it_is_an_error(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} is '{value}', but the training split has no text_embeds"):
        supervised(captioned(TRUTH, GOOD).remove_columns("text_embeds"), **options)


@pytest.mark.parametrize("labels", [few(0), few(1), np.full(ROWS, 1)])
def test_labelled_captions_of_two_classes_are_needed(labels):
    with pytest.raises(ValueError, match="labelled captions of at least two classes"):
        supervised(captioned(labels, GOOD), supervision="soft")


def test_image_features_are_a_second_view():
    """Captions tell classes 0 and 1 and no others, image features 3 and 4; row 5 has no caption."""
    one, other = vectors(np.minimum(TRUTH, 2)), vectors(np.maximum(TRUTH, 2), seed=1)
    split = captioned(few(200), np.where(np.arange(ROWS)[:, None] == 5, np.nan, one))
    alone, both = (supervised(split, supervision="pseudo", image_features=view) for view in (None, other))
    rest = slice(200, None)
    assert (labels_of(alone.split)[rest] == TRUTH[rest]).mean() < 0.75
    assert (labels_of(both.split)[rest] == TRUTH[rest]).mean() > 0.98
    assert both.facts["both_accuracy_estimate"] > 0.95 > 0.8 > both.facts["image_accuracy_estimate"]
    assert "image_accuracy_estimate" not in alone.facts


# --- The file of a run -----------------------------------------------------------------------------------------------


def test_what_was_found_is_read_and_not_found_again(tmp_path, monkeypatch):
    split = captioned(half_wrong(), GOOD)
    first = supervised(split, tmp_path / "supervision", supervision="auto")
    assert {path.name for path in (tmp_path / "supervision").iterdir()} == {
        "probabilities.npy",
        "likely.npy",
        "supervision.json",
    }
    stored = np.load(tmp_path / "supervision" / "probabilities.npy")
    np.testing.assert_array_equal(soft_of(first.split), stored.astype(np.float32))
    in_memory = supervised(split, supervision="auto")
    assert in_memory.facts == first.facts and in_memory.split["soft_labels"][:] == first.split["soft_labels"][:]

    def fit(*_):
        pytest.fail("was fitted again")

    with monkeypatch.context() as patched:
        patched.setattr(CaptionClassifier, "fit", fit)
        again = supervised(split, tmp_path / "supervision", supervision="auto")
        assert again.facts == first.facts and again.plan == first.plan
        assert again.split["soft_labels"][:] == first.split["soft_labels"][:]
    for other in (captioned(TRUTH, GOOD), captioned(half_wrong(), USELESS)):  # other labels, other captions
        found = supervised(other, tmp_path / "supervision", supervision="soft")
        assert found.facts["label_noise_estimate"] != first.facts["label_noise_estimate"]
        assert soft_of(found.split).tolist() == soft_of(supervised(other, supervision="soft").split).tolist()


# --- Batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_holds_the_soft_labels_of_its_rows():
    found = supervised(captioned(few(200), np.where(np.arange(ROWS)[:, None] == 7, np.nan, GOOD)), supervision="soft")
    pictures = [Image().encode_example(PILImage.new("RGB", (4, 4))) for _ in range(ROWS)]
    split = found.split.add_column("image", pictures, feature=Image(decode=False))
    images = CaptionedImages(split, lambda image: torch.zeros(3, 4, 4))
    items = images.__getitems__([9, 7, 3])
    np.testing.assert_array_equal([item["soft_labels"] for item in items], soft_of(split)[[9, 7, 3]].astype("float16"))
    batch = AlignmentCollator()(items)
    assert batch["soft_labels"].shape == (3, len(CLASSES)) and batch["soft_labels"].float().sum(
        1
    ).tolist() == pytest.approx([1, 0, 1], abs=2e-3)
    assert "soft_labels" not in CaptionedImages(split.remove_columns("soft_labels"), images.transform)[0]


# --- Options of version 0.1 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected", "said"),
    [
        (
            {"teacher_weight": 0.7, "teacher_temperature": 0.1},
            {"supervision": "soft", "soft_label_weight": 0.7},
            ("supervision: soft with soft_label_weight: 0.7", "teacher_temperature is deprecated and has no effect"),
        ),
        ({"teacher_weight": 0}, {"supervision": "none", "soft_label_weight": None}, ()),
        ({"teacher_captions": 100}, {"supervision": "none"}, ("teacher_captions is deprecated",)),
        (
            {"unlabelled": "pseudo_label", "pseudo_label_threshold": 0.5},
            {"supervision": "pseudo", "unlabelled": "keep"},
            ("use supervision: pseudo", "pseudo_label_threshold is deprecated"),
        ),
    ],
)
@pytest.mark.parametrize("door", ["words", "file", "compare"])
def test_options_of_version_0_1_are_translated_and_said(tmp_path, capsys, given, expected, said, door):
    base = {"dataset_name": "x", "output_dir": "o"}
    if door == "words":
        words = [str(word) for name, value in (base | given).items() for word in (f"--{name}", value)]
        parsed = parse_options(OPTIONS, words)
    elif door == "file":
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(base | given))
        parsed = parse_options(OPTIONS, ["--config", str(tmp_path / "train.yaml")])
    else:
        parsed = build_options(OPTIONS, base | given)
    options = {name: value for arguments in parsed for name, value in vars(arguments).items()}
    assert {name: options[name] for name in expected} == expected
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("warning: ") for line in lines) and len(lines) == len(said)
    for part in said:
        assert any(part in line for line in lines), part


def test_options_of_a_run_of_version_0_1_are_those_of_the_same_run(capsys):
    parsed = parse_options(OPTIONS, ["--config", str(OLDER / "aligned" / "train.yaml")])
    options = {name: value for arguments in parsed for name, value in vars(arguments).items()}
    assert (options["supervision"], options["soft_label_weight"], options["unlabelled"]) == ("none", None, "keep")
    assert options["align_weight"] == 0.3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"align_weight": 0.0, "supervision": "none", "label_noise": None}, None),
        ({"align_weight": 0.0, "label_noise": "keep"}, None),
        ({"align_weight": 0.0, "supervision": "soft"}, "supervision soft"),
        (
            {"align_weight": 0.0, "supervision": "auto", "label_noise": "relabel"},
            "supervision auto, label_noise relabel",
        ),
        ({"align_weight": 0.3, "supervision": "pseudo"}, "align_weight 0.3, supervision pseudo"),
        ({"align_weight": 0.0, "unlabelled": "pseudo_label"}, "unlabelled pseudo_label"),  # of version 0.1
        ({"align_weight": 0.0, "teacher_weight": 1.0}, "teacher_weight 1.0"),
    ],
)
def test_a_run_that_learned_from_captions_is_no_baseline(options, said):
    assert learned_from_captions(options) == said


def test_soft_labels_need_the_softmax():
    words = ["--dataset_name", "x", "--output_dir", "o", "--soft_label_weight", "1", "--classification_loss", "bce"]
    with pytest.raises(ValueError, match="soft_label_weight needs classification_loss: cross_entropy"):
        TrainingRun(*parse_options(OPTIONS, words))


# --- Training --------------------------------------------------------------------------------------------------------

STUDENT = ["--student", "resnet18", "--student_args", '{"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}']
STUDENT += ["--image_size", "32", "--use_cpu", "true", "--disable_tqdm", "true", "--save_strategy", "no"]
STUDENT += ["--max_steps", "3", "--per_device_train_batch_size", "8", "--logging_steps", "1", "--optim", "sgd"]


def drawn(labels: np.ndarray, embeds: np.ndarray) -> Dataset:
    """With pictures of one colour a class."""
    rng = np.random.default_rng(0)
    split = captioned(labels, embeds)
    colours = rng.integers(0, 100, (len(labels), 3)) + 20 * TRUTH[: len(labels), None]
    pictures = [Image().encode_example(PILImage.new("RGB", (16, 16), tuple(map(int, colour)))) for colour in colours]
    return split.add_column("image", pictures, feature=Image(decode=False))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    root, found = tmp_path_factory.mktemp("supervision"), {}
    for name, labels in {"few": few(40, TRUTH[:90]), "noisy": half_wrong(TRUTH[:300]), "whole": TRUTH[:90]}.items():
        (root / name).mkdir()
        drawn(labels, GOOD[: len(labels)]).to_parquet(root / name / "train.parquet")
        drawn(TRUTH[:12], GOOD[:12]).to_parquet(root / name / "validation.parquet")
        found[name] = root / name
    return found


def trained(folder: Path, run: Path, *words: str) -> dict:
    argv = ["train", "--dataset_name", str(folder), "--output_dir", str(run), "--require_labels", "false", *STUDENT]
    main([*argv, *words])
    return json.loads((run / "all_results.json").read_text())


def history(run: Path) -> list[dict]:
    return [line for line in json.loads((run / "trainer_state.json").read_text())["log_history"] if "loss_ce" in line]


def test_auto_trains_with_soft_labels_against_noise(data, tmp_path, capsys):
    results = trained(data["noisy"], tmp_path / "run", "--supervision", "auto")
    said = capsys.readouterr().out
    assert "Estimates: captions tell the class of" in said and "supervision: soft, as captions are right" in said
    assert said.index("Estimates") < said.index("Trained")
    assert "soft labels from captions, weight 3" in said
    assert results["supervision"] == "soft" and results["caption_accuracy_estimate"] > 0.6
    low, high = results["label_noise_interval"]
    assert low < results["label_noise_estimate"] < high and results["label_noise"] == "keep"
    for line in history(tmp_path / "run"):
        parts = line["loss_ce"] + line["align_weight"] * line["loss_align"] + 3 * line["loss_soft_labels"]
        assert line["loss"] == pytest.approx(parts, rel=1e-4)
    options = yaml.safe_load((tmp_path / "run" / "train.yaml").read_text())
    assert options["supervision"] == "auto" and options["soft_label_weight"] is None
    assert np.load(tmp_path / "run" / "supervision" / "probabilities.npy").shape == (300, len(CLASSES))
    trained(data["noisy"], tmp_path / "run", "--supervision", "auto")
    assert "finished" in capsys.readouterr().out


def test_pseudo_labels_are_trained_on_and_nothing_else_is_said(data, tmp_path, capsys):
    results = trained(data["few"], tmp_path / "pseudo", "--supervision", "pseudo")
    described = capsys.readouterr().out
    assert "pseudo-labels from captions" in described and "soft labels" not in described
    assert results["supervision"] == "pseudo" and results["label_noise_estimate"] is not None
    trained(data["whole"], tmp_path / "whole")
    # They are all right, so that training is that with all labels
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("pseudo", "whole")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[1])
    assert "loss_soft_labels" not in history(tmp_path / "pseudo")[0]


def test_without_captions_that_are_used_the_facts_say_so(data, tmp_path, capsys):
    assert trained(data["whole"], tmp_path / "run")["supervision"] == "none"
    assert "Estimates" not in capsys.readouterr().out and not (tmp_path / "run" / "supervision").exists()


def test_a_control_of_the_captions_is_what_is_learned_from(data, tmp_path):
    """Labels that are left out are not known to the classifier, and captions are those of the control."""
    words = ["--label_fraction", "0.5", "--supervision", "pseudo", "--caption_control"]
    results = [trained(data["whole"], tmp_path / kind, *words, kind) for kind in ("none", "shuffle")]
    estimates = [each["caption_accuracy_estimate"] for each in results]
    assert estimates[0] > 0.9 > 0.6 > estimates[1]


def test_a_dry_run_says_it_too_and_writes_nothing(data, tmp_path, capsys):
    argv = ["train", "--dataset_name", str(data["noisy"]), "--output_dir", str(tmp_path / "run"), *STUDENT]
    main([*argv, "--supervision", "auto", "--dry_run", "true"])
    said = capsys.readouterr().out
    assert "supervision: soft" in said and "soft labels from captions, weight 3" in said
    assert not list(tmp_path.iterdir())


def run_of(folder: Path, run: Path, *words: str) -> TrainingRun:
    argv = ["--dataset_name", str(folder), "--output_dir", str(run), "--require_labels", "false", *STUDENT, *words]
    return TrainingRun(*parse_options(OPTIONS, argv))


def test_what_a_run_records_does_not_depend_on_what_was_chosen(data, tmp_path):
    """Else the same command again would be another run."""
    before, after = (run_of(data["noisy"], tmp_path / "run", "--supervision", "auto") for _ in range(2))
    expected = before.resolved
    after.load()
    assert after.resolved == expected


def test_evaluated_splits_stay_as_they_are(data, tmp_path):
    run = run_of(data["noisy"], tmp_path / "run", "--supervision", "soft", "--label_noise", "relabel")
    run.load()
    assert labels_of(run.splits["validation"]).tolist() == TRUTH[:12].tolist()
    assert "soft_labels" in run.splits["train"].column_names
    assert "soft_labels" not in run.splits["validation"].column_names


def test_a_column_is_the_second_view(data, tmp_path):
    features = List(Value("float32"), length=DIM)
    (tmp_path / "data").mkdir()
    split = drawn(few(5, TRUTH[:90]), GOOD[:90])
    split = split.add_column("seen", vectors(TRUTH[:90], seed=1).tolist(), feature=features)
    split.to_parquet(tmp_path / "data" / "train.parquet")
    run = run_of(tmp_path / "data", tmp_path / "run", "--supervision", "auto", "--image_features", "seen")
    run.load()
    assert run.supervised.plan.supervision == "pseudo" and "image features agree on" in run.reasons[0]
    assert (labels_of(run.splits["train"]) == TRUTH[:90]).all()
    with pytest.raises(ValueError, match="image_features is 'sen', but the data has no such column"):
        run_of(tmp_path / "data", tmp_path / "b", "--supervision", "auto", "--image_features", "sen").load()
    with pytest.raises(ValueError, match="image_features is 'student', but pretrained is false"):
        run_of(tmp_path / "data", tmp_path / "c", "--supervision", "auto", "--image_features", "student").load()


def test_a_pretrained_student_is_the_second_view(data, tmp_path, capsys):
    trained(data["whole"], tmp_path / "run")
    main(["release", "--run", str(tmp_path / "run"), "--student_dir", str(tmp_path / "student")])
    words = ["--student", str(tmp_path / "student"), "--pretrained", "true", "--supervision", "auto"]
    found = run_of(data["few"], tmp_path / "second", *words[2:])
    found.student.student, found.student.student_args = words[1], None
    found.load()
    assert {"image_accuracy_estimate", "both_accuracy_estimate"} <= found.supervised.facts.keys()
    assert found.built.model.training

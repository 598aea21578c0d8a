"""Few labels: which are kept, that the others are gone everywhere, and that baseline and aligned run have the same."""

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from students import aligned_model

from g4i_hf.cli import parse_options
from g4i_hf.commands import train
from g4i_hf.data import CaptionedImages
from g4i_hf.data.labels import keep_label_fraction, labelled_rows, labels_of
from g4i_hf.hub.card_tables import options_table
from g4i_hf.options import RunArguments
from g4i_hf.training import AlignmentArguments, AlignmentTrainer
from g4i_hf.training.class_weights import class_weights_of
from g4i_hf.training.run_folder import open_run, write_options
from g4i_hf.training.summary import describe_training
from g4i_hf.workflows.train import TrainingRun

SIZES = (40, 10, 3, 1)  # images of each class
TO_TENSOR = lambda image: torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255  # noqa: E731


def made_up(sizes=SIZES, captions_per_class: int = 2) -> Dataset:
    """Classes one after the other; within one, rows take turns in its captions."""
    rng = np.random.default_rng(0)
    features = Features(
        {
            "image": Image(decode=False),
            "label": ClassLabel(names=[f"class {label}" for label in range(len(sizes))]),
            "image_id": Value("string"),
            "caption": Value("string"),
            "text_embeds": List(Value("float16"), length=12),
        }
    )
    labels = np.repeat(np.arange(len(sizes)), sizes)
    captions = [f"{label}, {row % captions_per_class}" for row, label in enumerate(labels)]
    vectors = {caption: np.eye(12)[number % 12] for number, caption in enumerate(sorted(set(captions)))}
    pixels = rng.integers(0, 255, (len(labels), 48, 48, 3), dtype=np.uint8)
    columns = {
        "image": [Image().encode_example(PILImage.fromarray(image)) for image in pixels],
        "label": labels.tolist(),
        "image_id": [f"id-{row}" for row in range(len(labels))],
        "caption": captions,
        "text_embeds": [vectors[caption] for caption in captions],
    }
    return Dataset.from_dict(columns, features=features)


@pytest.fixture(scope="module")
def split():
    return made_up()


def kept_ids(split: Dataset, fraction: float, seed: int = 0) -> set[str]:
    kept = keep_label_fraction(split, fraction, seed)
    assert kept.features == split.features and kept["image_id"][:] == split["image_id"][:]
    return {row["image_id"] for row in kept.remove_columns("image") if row["label"] is not None}


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.01, [1, 1, 1, 1]), (0.1, [4, 1, 1, 1]), (0.5, [20, 5, 2, 1]), (1, list(SIZES))]
)
def test_each_class_keeps_its_share_and_one_at_least(split, fraction, expected):
    labels = labels_of(keep_label_fraction(split, fraction, seed=0))
    assert np.bincount(labels[labels >= 0]).tolist() == expected
    truth = labels_of(split)
    assert (labels[labels >= 0] == truth[labels >= 0]).all()


def test_smaller_fractions_are_within_larger_ones_and_order_does_not_matter(split):
    shares = [kept_ids(split, fraction) for fraction in (0.05, 0.1, 0.3, 0.31, 0.9)]
    assert all(smaller <= larger for smaller, larger in zip(shares, shares[1:], strict=False))
    backwards = split.select(range(len(split))[::-1]).flatten_indices()
    assert kept_ids(backwards, 0.3) == shares[2]
    assert kept_ids(split, 0.3, seed=1) != shares[2]
    # Those of a seed stay the same: results of other versions could not be compared
    assert shares[1] == {"id-0", "id-12", "id-20", "id-29", "id-48", "id-51", "id-53"}


def test_rows_without_label_stay_so_and_are_not_counted(split):
    labels = split["label"][:]
    labels[:20] = [None, -1] * 10
    fewer = split.remove_columns("label").add_column("label", labels, feature=split.features["label"])
    kept = labels_of(keep_label_fraction(fewer, 0.5, seed=0))
    assert (kept[:20] == -100).all() and np.bincount(kept[kept >= 0]).tolist() == [10, 5, 2, 1]
    without = split.remove_columns("label")
    assert keep_label_fraction(without, 0.5, seed=0) is without


def test_labelled_rows_are_those_left_when_others_are_dropped(split):
    few = keep_label_fraction(split, 0.1, seed=0)
    assert sorted(labelled_rows(few)["image_id"][:]) == sorted(kept_ids(split, 0.1))
    assert labelled_rows(split) is split
    with pytest.raises(ValueError, match="unlabelled is 'drop', but no row .* has a label"):
        labelled_rows(split.remove_columns("label"))


# --- What training sees ----------------------------------------------------------------------------------------------


def test_labels_that_are_not_kept_are_nowhere(split):
    images = CaptionedImages(keep_label_fraction(split, 0.1, seed=0), TO_TENSOR)
    few = kept_ids(split, 0.1)
    truth, ids = labels_of(split), split["image_id"][:]
    expected = [label if image_id in few else -100 for label, image_id in zip(truth, ids, strict=True)]
    assert [images[row]["labels"] for row in range(len(images))] == expected
    # 4, 1, 1 and 1 labels: each class counts as much as another
    weights = class_weights_of("balanced", len(SIZES), images)
    assert weights.tolist() == pytest.approx([7 / 16, 7 / 4, 7 / 4, 7 / 4])


def test_a_text_bank_knows_the_class_of_a_text_by_labelled_rows_alone():
    """Captions of 2 classes, 2 each: of class 0 both have a labelled image, of class 1 none has."""
    split = made_up((4, 4))
    labels = [0, 0, None, None, None, None, None, None]
    split = split.remove_columns("label").add_column("label", labels, feature=split.features["label"])
    bank = CaptionedImages(split, TO_TENSOR).text_bank()
    found = dict(zip(bank["text_keys"].tolist(), bank["labels"].tolist(), strict=True))
    assert found == {0: 0, 1: 0, 2: -100, 3: -100} and len(bank["labels"]) == 4


def trained_loss(folder, split: Dataset, **options) -> tuple[AlignmentTrainer, list[dict]]:
    args = AlignmentArguments(
        str(folder),
        per_device_train_batch_size=4,
        num_train_epochs=1,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        **options,
    )
    torch.manual_seed(0)
    model = aligned_model("vit")
    trainer = AlignmentTrainer(model, args, train_dataset=CaptionedImages(split, TO_TENSOR))
    trainer.train()
    return trainer, [line for line in trainer.state.log_history if "loss_ce" in line]


def test_the_loss_is_the_mean_over_labelled_rows_and_zero_without_any(tmp_path):
    """Two batches of four rows, one labelled row in the first, none in the second."""
    split = made_up((4, 4))
    labels = [None, 0, *[None] * 6]
    split = split.remove_columns("label").add_column("label", labels, feature=split.features["label"])
    trainer, (first, second) = trained_loss(tmp_path / "a", split, align_weight=0, learning_rate=0.0)
    images = CaptionedImages(split, TO_TENSOR)
    pixels = torch.stack([images[row]["pixel_values"] for row in range(4)])
    logits = trainer.model.train()(pixel_values=pixels).logits
    assert first["loss_ce"] == pytest.approx(-logits.log_softmax(1)[1, 0].item(), rel=1e-4)
    assert second["loss_ce"] == second["loss"] == 0 and second["grad_norm"] == 0


@pytest.mark.parametrize(
    "options, kept, captioned, is_told",
    [
        ({}, 0.1, "all", True),
        ({}, 0.1, "labelled", False),
        ({}, 0.1, "unlabelled", False),  # nobody knows what they tell of classes
        ({}, 1.0, "all", False),
        ({"teacher_weight": 1.0}, 0.1, "all", False),
        ({"align_weight": 0.0}, 0.1, "all", False),
        ({"classification_loss": "bce"}, 0.1, "all", False),
    ],
)
def test_captions_that_could_teach_and_do_not_are_told_of(split, tmp_path, caplog, options, kept, captioned, is_told):
    images = CaptionedImages(keep_label_fraction(split, kept, seed=0), TO_TENSOR)
    if captioned != "all":
        images.caption_weight[(images.labels == -100) == (captioned == "labelled")] = 0
    args = AlignmentArguments(str(tmp_path), report_to=[], **options)
    trainer = AlignmentTrainer(aligned_model("vit"), args, train_dataset=images)
    assert ("47 of 54 training images have a caption and no label" in caplog.text) == is_told
    described = "\n".join(describe_training("tiny", trainer.model, images, args))
    assert ("54 images of 5 classes" in described) and (", 7 with a label" in described) == (kept < 1)


# --- The recipe ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    (folder / "data").mkdir()
    made_up().to_parquet(folder / "data" / "train.parquet")
    made_up((2, 2, 2, 2)).to_parquet(folder / "data" / "validation.parquet")
    return folder


def run_of(*argv: str) -> TrainingRun:
    return TrainingRun(*parse_options(train.OPTIONS, list(argv)))


def loaded(data, *argv: str):
    run = run_of("--dataset_name", str(data / "data"), "--output_dir", str(data / "run"), *argv)
    run.load()
    return run, run.splits


def test_baseline_and_aligned_run_keep_the_same_labels_and_resume_with_them(data):
    few = ["--label_fraction", "0.1", "--seed", "3"]
    (_, aligned), (_, baseline) = loaded(data, *few), loaded(data, *few, "--align_weight", "0")
    assert labels_of(aligned["train"]).tolist() == labels_of(baseline["train"]).tolist()
    assert (labels_of(aligned["train"]) >= 0).sum() == 7 and len(aligned["train"]) == sum(SIZES)
    assert aligned["train"]["text_embeds"][:] == baseline["train"]["text_embeds"][:] != [None] * sum(SIZES)
    assert (labels_of(aligned["validation"]) >= 0).all()
    _, of_run_seed = loaded(data, "--label_fraction", "0.1", "--seed", "4")
    _, of_label_seed = loaded(data, "--label_fraction", "0.1", "--seed", "4", "--label_seed", "3")
    assert labels_of(of_run_seed["train"]).tolist() != labels_of(aligned["train"]).tolist()
    assert labels_of(of_label_seed["train"]).tolist() == labels_of(aligned["train"]).tolist()


def test_metadata_of_a_folder_says_which_images_have_no_label(tmp_path):
    """The README's way: `label` in metadata.jsonl is the name of the class, or null."""
    for split, labels in (("train", ["cats", None, "dogs", None]), ("validation", ["dogs", "cats"])):
        folder = tmp_path / "pictures" / split
        (folder / "any").mkdir(parents=True)
        for row in range(len(labels)):
            PILImage.new("RGB", (8, 8), (row, row, row)).save(folder / "any" / f"{row}.png")
        lines = [
            {"file_name": f"any/{row}.png", "caption": f"picture {row}", "label": label}
            for row, label in enumerate(labels)
        ]
        (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    argv = ["--dataset_name", str(tmp_path / "pictures"), "--output_dir", str(tmp_path / "run"), "--align_weight", "0"]
    run = run_of(*argv, "--require_labels", "false")
    run.load()
    splits = run.splits
    assert list(run.id2label.values()) == ["cats", "dogs"]
    assert labels_of(splits["train"]).tolist() == [0, -100, 1, -100]
    assert labels_of(splits["validation"]).tolist() == [1, 0]
    with pytest.raises(ValueError, match="row 1: unlabelled"):
        run_of(*argv).load()


def test_rows_without_label_can_be_dropped(data):
    _, splits = loaded(data, "--label_fraction", "0.1", "--unlabelled", "drop", "--align_weight", "0")
    assert len(splits["train"]) == 7 and len(splits["validation"]) == 8


def test_the_options_are_recorded_compared_and_on_the_card(data, tmp_path):
    run, _ = loaded(data, "--label_fraction", "0.1", "--unlabelled", "drop")
    recorded = run.resolved
    assert {name: recorded[name] for name in ("label_fraction", "label_seed", "unlabelled", "caption_control")} == {
        **{"label_fraction": 0.1, "label_seed": None, "unlabelled": "drop", "caption_control": "none"}
    }
    write_options(tmp_path, json.loads(json.dumps(recorded)))
    assert open_run(tmp_path, recorded, overwrite=False) == ("fresh", None)
    with pytest.raises(ValueError, match=r"other options: label_fraction \(0.1 there, 0.2 here\)"):
        open_run(tmp_path, recorded | {"label_fraction": 0.2}, overwrite=False)
    table = options_table(recorded | {"caption_control": "random"})
    assert all(
        row in table
        for row in ("| label_fraction | `0.1` |", "| unlabelled | `drop` |", "| caption_control | `random` |")
    )
    assert "label_seed" not in table and "caption_control" not in options_table(recorded)
    assert "caption_control" not in options_table(recorded | {"caption_control": "random", "align_weight": 0.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_fraction": 0.0}, "label_fraction is 0.0; it must be above 0 and at most 1"),
        ({"label_fraction": 1.5}, "label_fraction is 1.5"),
        ({"unlabelled": "dropped"}, "unlabelled is 'dropped'.*Did you mean 'drop'"),
        ({"caption_control": "class-name"}, "caption_control is 'class-name'.*Did you mean 'class_name'"),
    ],
)
def test_wrong_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RunArguments(**options)

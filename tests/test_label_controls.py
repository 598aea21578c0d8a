"""Few, wrong and rare labels: which they are, that others are gone everywhere, and that a baseline has the same."""

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
from g4i_hf.data.checks import labelled_rows, labels_of, with_labels
from g4i_hf.data.texts import numbered
from g4i_hf.hub.card import options_table
from g4i_hf.options import RunArguments
from g4i_hf.supervision.label_controls import keep_label_fraction, with_label_noise, with_long_tail
from g4i_hf.training import AlignmentArguments, AlignmentTrainer
from g4i_hf.training.optimization import class_weights_of
from g4i_hf.training.run_folder import open_run, write_options
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


# --- Wrong labels ----------------------------------------------------------------------------------------------------

EVEN = (20, 20, 20, 20)


@pytest.fixture(scope="module")
def even():
    return made_up(EVEN)


def noisy(split: Dataset, rate: float, seed: int = 0, kind: str = "symmetric") -> np.ndarray:
    found = with_label_noise(split, rate, seed, 4, kind)
    assert found.features == split.features and found["image_id"][:] == split["image_id"][:]
    return labels_of(found)


@pytest.mark.parametrize("kind", ["symmetric", "confusable"])
@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (0.05, 1), (0.24, 5), (0.5, 10), (0.95, 19)])
def test_of_each_class_that_share_is_wrong(even, rate, expected, kind):
    truth, found = labels_of(even), noisy(even, rate, kind=kind)
    assert np.bincount(truth[found != truth], minlength=4).tolist() == [expected] * 4
    assert found.min() >= 0 and found.max() < 4


def test_wrong_labels_of_a_lower_rate_are_among_those_of_a_higher_one(even):
    truth = labels_of(even)
    for kind in ("symmetric", "confusable"):
        found = [noisy(even, rate, kind=kind) for rate in (0.1, 0.3, 0.31, 0.8)]
        for fewer, more in zip(found, found[1:], strict=False):
            assert (more == fewer)[fewer != truth].all() and (more != truth).sum() >= (fewer != truth).sum()


def test_wrong_labels_depend_on_seed_and_image_id_alone(even):
    order = np.random.default_rng(0).permutation(len(even))
    assert (noisy(even.select(order).flatten_indices(), 0.4) == noisy(even, 0.4)[order]).all()
    assert (noisy(even, 0.4, seed=1) != noisy(even, 0.4)).any()
    fewer = even.select(np.flatnonzero(labels_of(even) != 0))  # another class does not matter
    assert (noisy(fewer, 0.4) == noisy(even, 0.4)[20:]).all()
    # Those of a seed stay the same: results of other versions could not be compared
    assert np.flatnonzero(noisy(even, 0.1) != labels_of(even)).tolist() == [0, 12, 20, 29, 47, 48, 67, 72]


def test_symmetric_labels_are_any_other_class():
    split = made_up((1500, 10, 10, 10))
    found = noisy(split, 0.9)[:1500]
    counts = np.bincount(found[found != 0], minlength=4)[1:]
    assert counts.sum() == 1350 and abs(counts - 450).max() < 60  # three standard deviations


def test_confusable_labels_are_the_class_whose_captions_are_most_alike():
    """Means of captions: class 1 is between 0 and 2, nearer to 0; class 3 is opposite of all."""
    angles = np.radians([0, 20, 60, 200])
    split = made_up((4, 4, 4, 4)).remove_columns("text_embeds")
    vectors = np.zeros((16, 12))
    vectors[:, 0], vectors[:, 1] = np.cos(angles).repeat(4), np.sin(angles).repeat(4)
    vectors[[0, 1]] += [[0, 0.3] + [0] * 10, [0, -0.3] + [0] * 10]  # their mean is what counts
    feature = List(Value("float16"), length=12)
    split = split.add_column("text_embeds", vectors.tolist(), feature=feature)
    truth, found = labels_of(split), noisy(split, 0.5, kind="confusable")
    assert [set(found[(truth == label) & (found != truth)].tolist()) for label in range(4)] == [{1}, {0}, {1}, {2}]
    with pytest.raises(ValueError, match="label_noise_kind is 'confusable', which needs captions that are embedded"):
        noisy(split.remove_columns("text_embeds"), 0.5, kind="confusable")


def test_a_confusable_class_is_one_that_has_captions():
    """The mean of a class without is no vector: it is not nearer than one on the other side."""
    split = made_up((4, 4)).remove_columns("text_embeds")
    vectors = (np.eye(12)[0] * np.repeat([[1], [-1]], 4, axis=0)).tolist()
    split = split.add_column("text_embeds", vectors, feature=List(Value("float16"), length=12))
    found = labels_of(with_label_noise(split, 0.5, 0, 4, "confusable"))
    assert np.bincount(found).tolist() == [4, 4]


def test_rows_without_a_label_get_no_wrong_one(even):
    some = with_labels(even, np.where(np.arange(80) % 2, labels_of(even), -100))
    found = noisy(some, 0.5)
    assert (found[::2] == -100).all() and (found != labels_of(some)).sum() == 20
    without = even.remove_columns("label")
    assert with_label_noise(without, 0.5, 0, 4) is without and with_label_noise(even, 0.0, 0, 4) is even


# --- Rare classes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1, [20, 20, 20, 20]), (8, [20, 10, 5, 3]), (20, [20, 7, 3, 1]), (1000, [20, 2, 1, 1])],
)
def test_classes_fall_off_exponentially(even, factor, expected):
    found = with_long_tail(even, factor, seed=0)
    assert np.bincount(labels_of(found)).tolist() == expected and found.features == even.features


def test_a_longer_tail_is_within_a_shorter_one_and_order_does_not_matter(even):
    ids = [set(with_long_tail(even, factor, seed=0)["image_id"][:]) for factor in (1, 5, 10, 100)]
    assert all(longer < shorter for shorter, longer in zip(ids, ids[1:], strict=False))
    backwards = even.select(range(len(even))[::-1]).flatten_indices()
    assert set(with_long_tail(backwards, 10, seed=0)["image_id"][:]) == ids[2]
    assert set(with_long_tail(even, 10, seed=1)["image_id"][:]) != ids[2]
    found = with_long_tail(even, 10, seed=0)["image_id"][:]
    assert found == sorted(found, key=even["image_id"][:].index)


def test_rows_without_a_label_are_not_left_out(even):
    some = with_labels(even, np.where(np.arange(80) % 2, labels_of(even), -100))
    found = labels_of(with_long_tail(some, 10, seed=0))
    assert (found < 0).sum() == 40 and np.bincount(found[found >= 0]).tolist() == [10, 5, 2, 1]


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
    found = dict(zip(numbered(bank["text_keys"]).tolist(), bank["labels"].tolist(), strict=True))
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


@pytest.mark.parametrize(
    ("words", "kept", "captioned", "is_told"),
    [
        ((), "0.1", "all", True),
        (("--align_weight", "0"), "0.1", "all", False),
        ((), "0.1", "labelled", False),
        ((), "0.1", "unlabelled", False),  # nobody knows what they tell of classes
        ((), "1", "all", False),
        (("--supervision", "soft"), "0.1", "all", False),
        (("--unlabelled", "drop"), "0.1", "all", False),
    ],
)
def test_captions_that_could_teach_and_do_not_are_told_of(tmp_path, caplog, words, kept, captioned, is_told):
    split = made_up()
    labelled = labels_of(keep_label_fraction(split, float(kept), seed=0)) >= 0
    if captioned != "all":
        embeds = split["text_embeds"][:]
        has = labelled == (captioned == "labelled")
        embeds = [vector if is_there else None for vector, is_there in zip(embeds, has, strict=True)]
        feature = split.features["text_embeds"]
        split = split.remove_columns("text_embeds").add_column("text_embeds", embeds, feature=feature)
    (tmp_path / "data").mkdir()
    split.to_parquet(tmp_path / "data" / "train.parquet")
    argv = ["--dataset_name", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run"), "--label_seed", "0"]
    run_of(*argv, "--label_fraction", kept, *words).load()
    told = "47 of 54 training images have a caption and no label"
    assert (told in caplog.text and "--supervision auto" in caplog.text) == is_told


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


def test_labels_are_made_wrong_in_training_alone(data):
    few = ("--label_noise_rate", "0.5", "--long_tail_factor", "5", "--label_fraction", "0.5", "--seed", "3")
    _, splits = loaded(data, *few)
    _, again = loaded(data, *few, "--align_weight", "0")
    _, other = loaded(data, *few, "--label_noise_seed", "4")
    train, truth = splits["train"], dict(zip(made_up()["image_id"][:], labels_of(made_up()), strict=True))
    found, own = labels_of(train), np.asarray([truth[image_id] for image_id in train["image_id"][:]])
    # The tail of 40, 10, 3 and 1, then the labels that are kept, then those made wrong
    assert np.bincount(own).tolist() == [40, 6, 1, 1] and np.bincount(own[found >= 0]).tolist() == [20, 3, 1, 1]
    assert ((found >= 0) & (found != own)).sum() == 10 + 2 + 1 + 1
    assert labels_of(again["train"]).tolist() == found.tolist() != labels_of(other["train"]).tolist()
    assert labels_of(splits["validation"]).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


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
        ({"label_noise_rate": 1.0}, "label_noise_rate is 1.0; it must be at least 0 and below 1"),
        ({"label_noise_rate": -0.1}, "label_noise_rate is -0.1"),
        ({"label_noise_kind": "symetric"}, "label_noise_kind is 'symetric'.*Did you mean 'symmetric'"),
        ({"long_tail_factor": 0.5}, "long_tail_factor is 0.5"),
        ({"unlabelled": "dropped"}, "unlabelled is 'dropped'.*Did you mean 'drop'"),
        ({"caption_control": "class-name"}, "caption_control is 'class-name'.*Did you mean 'class_name'"),
    ],
)
def test_wrong_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RunArguments(**options)

"""Controls of training with captions: what stands in their place, in which rows, and that keys and bank follow."""

from collections import Counter

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from g4i_hf.cli import parse_options
from g4i_hf.commands import train
from g4i_hf.data import CaptionedImages
from g4i_hf.embedding import EncoderArguments, encoders
from g4i_hf.embedding.embed import name_as_text
from g4i_hf.supervision.caption_controls import control_captions
from g4i_hf.workflows.train import TrainingRun

DIM = 8
NAMES = ["animal-bird", "hot_dog", "sky"]
ENCODER = EncoderArguments(text_encoder="letters")
TO_TENSOR = lambda image: torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255  # noqa: E731


class Letters:
    """An encoder of its own: a vector that belongs to the text alone."""

    dim, max_tokens, prompt, provenance = DIM, None, "", {}

    def __init__(self, *args, **kwargs):
        self.asked_for = args, kwargs

    def count_tokens(self, captions):
        return [len(caption) for caption in captions]

    def encode(self, captions):
        return np.stack([vector_of(caption) for caption in captions])


def vector_of(text: str) -> np.ndarray:
    vector = np.random.default_rng(list(text.encode())).standard_normal(DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


@pytest.fixture
def encoder(monkeypatch):
    monkeypatch.setattr(encoders, "load_encoder", Letters)
    return ENCODER


def made_up(rows: int = 36, captions: list | None = None) -> Dataset:
    """
    Classes in turn; each has three captions, each of several rows. Row 0 has no caption, row 1 no label, row 2 the
    weight 0.5.
    """
    labels = [row % 3 for row in range(rows)]
    captions = captions or [f"{labels[row]}, {row // 3 % 3}" for row in range(rows)]
    captions[0], labels[1] = None, None
    several = any(isinstance(caption, list) for caption in captions)
    vector = List(Value("float16"), length=DIM)
    features = Features(
        {
            "image": Image(decode=False),
            "label": ClassLabel(names=NAMES),
            "image_id": Value("string"),
            "caption": List(Value("string")) if several else Value("string"),
            "text_embeds": List(vector) if several else vector,
            "caption_weight": Value("float32"),
        }
    )
    white = Image().encode_example(PILImage.new("RGB", (16, 16), "white"))
    embeds = [
        [vector_of(text) for text in caption] if isinstance(caption, list) else caption and vector_of(caption)
        for caption in captions
    ]
    columns = {"image": [white] * rows, "label": labels, "image_id": [f"id-{row}" for row in range(rows)]}
    columns |= {"caption": captions, "text_embeds": embeds}
    columns["caption_weight"] = [0.5 if row == 2 else 1.0 for row in range(rows)]
    return Dataset.from_dict(columns, features=features)


def controlled(split: Dataset, control: str, seed: int = 0, encoder=ENCODER, **options) -> Dataset:
    names = split.features["label"].names
    after = control_captions(split, control, seed=seed, class_names=names, encoder=encoder, **options)
    for name in ("image", "image_id", "label"):
        assert after[name][:] == split[name][:]
    return after


def embeds_of(split: Dataset) -> list[np.ndarray | None]:
    return [None if vector is None else np.asarray(vector, dtype=np.float32) for vector in split["text_embeds"][:]]


def assert_vectors_belong_to_captions(split: Dataset) -> None:
    for caption, vector in zip(split["caption"][:], embeds_of(split), strict=True):
        assert (caption is None) == (vector is None)
        if caption is not None:
            np.testing.assert_allclose(vector, vector_of(caption), atol=1e-3)


def test_without_a_control_or_embeddings_nothing_changes():
    split = made_up()
    assert control_captions(split, "none", seed=0, class_names=NAMES, encoder=ENCODER) is split
    without = split.remove_columns("text_embeds")
    assert control_captions(without, "shuffle", seed=0, class_names=NAMES, encoder=ENCODER) is without


# --- Class names -----------------------------------------------------------------------------------------------------


def test_class_names_take_the_place_of_captions_where_the_class_is_known(encoder):
    split = made_up()
    after = controlled(split, "class_name")
    words = ["animal bird", "hot dog", "sky"]
    assert after["caption"][:] == [None, None, "sky", *[words[row % 3] for row in range(3, 36)]]
    assert_vectors_belong_to_captions(after)
    assert after["caption_weight"][:] == split["caption_weight"][:]
    images = CaptionedImages(after, TO_TENSOR)
    keys, labels = images.caption_keys[3:, 0], images.labels[3:]
    assert ((keys[:, None] == keys) == (labels[:, None] == labels)).all()
    assert (images[0]["caption_weight"], images[1]["caption_weight"], images[2]["caption_weight"]) == (0, 0, 0.5)
    bank = images.text_bank()
    assert sorted(bank["labels"].tolist()) == [0, 1, 2]


def test_the_encoder_is_asked_for_as_that_of_the_captions(monkeypatch):
    asked = []
    monkeypatch.setattr(encoders, "load_encoder", lambda *args, **kwargs: asked.append((args, kwargs)) or Letters())
    named = EncoderArguments(text_encoder="letters", text_encoder_revision="v2", text_encoder_prompt="passage: ")
    controlled(made_up(), "class_name", encoder=named)
    ((name, revision, _), prompts), *more = asked
    assert (name, revision, prompts) == ("letters", "v2", {"prompt": "passage: ", "prompt_name": None}) and not more


def test_class_names_need_the_encoder_of_the_captions(monkeypatch, encoder):
    with pytest.raises(ValueError, match="caption_control is 'class_name', but text_encoder is not set"):
        controlled(made_up(), "class_name", encoder=EncoderArguments())
    monkeypatch.setattr(Letters, "dim", 5)
    with pytest.raises(ValueError, match="letters gives vectors of 5 numbers and the captions have vectors of 8"):
        controlled(made_up(), "class_name")


def test_names_are_read_as_words():
    assert [name_as_text(name) for name in ("aquarium_fish", " t-shirt", "tench, Tinca tinca")] == [
        *("aquarium fish", "t shirt", "tench, Tinca tinca")
    ]


# --- Random vectors --------------------------------------------------------------------------------------------------


def test_random_vectors_are_one_for_each_distinct_caption():
    split = made_up()
    after = controlled(split, "random")
    captions, vectors = after["caption"][:], embeds_of(after)
    assert captions == split["caption"][:] and after.features == split.features and vectors[0] is None
    table, captions = np.stack(vectors[1:]), captions[1:]
    np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1, atol=1e-3)
    same_text = np.array(captions)[:, None] == np.array(captions)
    assert ((table[:, None] == table).all(-1) == same_text).all()
    assert np.abs(table @ table.T)[~same_text].max() < 0.999
    assert not any(
        np.allclose(vector, vector_of(text), atol=0.01) for vector, text in zip(table, captions, strict=True)
    )


def test_random_vectors_of_several_captions_an_image_and_of_none_that_is_known():
    split = made_up(6, [None, ["a", "b"], ["c"], ["b", "c"], ["a"], ["d"]])
    vectors = controlled(split, "random")["text_embeds"][:]
    assert [vector and len(vector) for vector in vectors] == [None, 2, 1, 2, 1, 1]
    assert vectors[1][1] == vectors[3][0] and vectors[2][0] == vectors[3][1] and vectors[1][0] == vectors[4][0]
    with_captions, without = made_up(), made_up().remove_columns("caption")
    assert controlled(without, "random")["text_embeds"][:] == controlled(with_captions, "random")["text_embeds"][:]


# --- Shuffled captions -----------------------------------------------------------------------------------------------


def per_class(split: Dataset) -> dict:
    counts: dict = {}
    for label, caption in zip(split["label"][:], split["caption"][:], strict=True):
        counts.setdefault(label, Counter())[caption] += 1
    return counts


def test_captions_are_shuffled_within_their_class():
    split = made_up()
    after = controlled(split, "shuffle_class")
    assert per_class(after) == per_class(split) | {None: Counter({None: 1})}  # whose class is not known
    assert_vectors_belong_to_captions(after)
    assert after["caption"][:] != split["caption"][:]
    texts = zip(after["caption"][:], after["caption_weight"][:], strict=True)
    assert [caption for caption, weight in texts if weight == 0.5] == ["2, 0"]  # the weight went with its caption


def test_captions_are_shuffled_over_all_rows_so_that_neither_class_nor_concept_is_left():
    """600 rows of 9 captions: after it the caption of a row says nothing of the one it had."""
    split = made_up(600)
    after = controlled(split, "shuffle")
    before, now = split["caption"][1:], after["caption"][1:]
    assert Counter(before) == Counter(now) and after["caption"][0] is None
    assert_vectors_belong_to_captions(after)
    pairs = Counter(zip(before, now, strict=True))
    assert len(pairs) == 81  # each caption went to rows of every other one
    expected = 599 / 81
    # 64 degrees of freedom: above 105 in one of a thousand
    assert sum((count - expected) ** 2 / expected for count in pairs.values()) < 105
    keys = CaptionedImages(after, TO_TENSOR).caption_keys[1:, 0]
    assert ((keys[:, None] == keys) == (np.array(now)[:, None] == np.array(now))).all()


def test_captions_of_rows_that_are_left_out_go_to_no_other():
    split = made_up(6, [f"caption {row}" for row in range(6)])
    after = controlled(split, "shuffle", leave_out_unlabelled=True)
    assert sorted(after["caption"][2:]) == [f"caption {row}" for row in range(2, 6)]
    assert after["caption"][:2] == [None, None]


@pytest.mark.parametrize("control", ["random", "shuffle_class", "shuffle"])
def test_the_seed_decides(control):
    first, again, other = (controlled(made_up(), control, seed) for seed in (0, 0, 1))
    assert first["text_embeds"][:] == again["text_embeds"][:] and first["caption"][:] == again["caption"][:]
    assert first["text_embeds"][:] != other["text_embeds"][:]


# --- The recipe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["class_name", "random", "shuffle_class", "shuffle"])
def test_the_recipe_changes_the_training_split_alone_and_after_the_labels(tmp_path, encoder, control):
    (tmp_path / "data").mkdir()
    full = made_up().select(range(2, 36)).flatten_indices()  # all with label and caption
    for name in ("train", "validation"):
        full.to_parquet(tmp_path / "data" / f"{name}.parquet")
    argv = ["--dataset_name", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run"), "--seed", "5"]
    argv += ["--text_encoder", "letters", "--caption_control", control, "--label_fraction", "0.3"]
    runs = [TrainingRun(*parse_options(train.OPTIONS, argv)) for _ in range(2)]
    for run in runs:
        run.load()
    splits, again = (run.splits for run in runs)
    assert splits["validation"]["caption"][:] == full["caption"][:]
    assert splits["train"]["caption"][:] == again["train"]["caption"][:]
    assert splits["train"]["text_embeds"][:] == again["train"]["text_embeds"][:] != full["text_embeds"][:]
    labelled = [label is not None for label in splits["train"]["label"][:]]
    captioned = [caption is not None for caption in splits["train"]["caption"][:]]
    assert sum(labelled) == 10  # of 11, 11 and 12
    assert captioned == (labelled if control in ("class_name", "shuffle_class") else [True] * 34)

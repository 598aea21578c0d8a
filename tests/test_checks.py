"""What is wrong with the data is said before the first step; what is only unusual is handled right."""

import re

import make
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from g4i_hf.data.checks import check_split
from g4i_hf.data.dataset import CaptionedImages

CLASSES, DIM = ["ant", "bée", "猫"], 4
VECTOR = List(Value("float16"), length=DIM)
FEATURES = {
    "image": Image(decode=False),
    "label": ClassLabel(names=CLASSES),
    "image_id": Value("string"),
    "caption": Value("string"),
    "text_embeds": VECTOR,
}


def good_rows() -> dict[str, list]:
    return {
        "image": [make.stored(make.noise(row)) for row in range(6)],
        "label": [row % 3 for row in range(6)],
        "image_id": [f"ïd-{row}" for row in range(6)],
        "caption": [f"caption {row}" for row in range(6)],
        "text_embeds": [np.eye(DIM)[row % DIM].tolist() for row in range(6)],
    }


def split_with(row: int | None = None, drop: str | None = None, features: dict | None = None, **values) -> Dataset:
    """Good rows, except for these values in `row` (or, without a row, in the whole column)."""
    rows = good_rows()
    for column, value in values.items():
        if row is None:
            rows[column] = value
        else:
            rows[column][row] = value
    split = Dataset.from_dict(rows, features=Features(FEATURES | (features or {})))
    return split.remove_columns(drop) if drop else split


def embeds_of(values: list, feature) -> Dataset:
    return split_with(text_embeds=values, features={"text_embeds": feature})


def check(split: Dataset, **kwargs) -> dict[str, int]:
    return check_split(split, "träin", num_labels=3, **({"text_embed_dim": DIM} | kwargs))


PICTURE = make.noise(1, 4, 6)
PIXELS = np.asarray(PICTURE)
CUT = {"bytes": make.stored(PICTURE.resize((99, 99)), "JPEG")["bytes"][:-99], "path": None}
ANY = {"label": Value("int64")}
UNIT = np.eye(DIM).tolist()
NO_LIST = "is no list of floats of fixed length. Store it as List"
# Fault -> the split, and what the message says after its name
ERRORS = {
    "no label": (split_with(drop="label"), "has no column 'label'. Its columns: image, .*--label_column"),
    "label too large": (split_with(row=3, label=3, features=ANY), r"'label', row 3: 3 is out .* \(0 to 2\). Correct"),
    "label negative": (split_with(row=3, label=-100, features=ANY), "'label', row 3: -100 is out of range.*Correct"),
    "unlabelled": (split_with(row=0, label=None), r"'label', row 0: unlabelled \(None\). Label the row, remove it"),
    "doubled id": (split_with(row=5, image_id="ïd-1"), "'image_id', row 5: 'ïd-1', which row 1 has too. Give every"),
    "null id": (split_with(row=2, image_id=None), "'image_id', row 2: null. Give every image an id"),
    "no embeddings": (split_with(drop="text_embeds"), "has no column 'text_embeds'.*g4i embed.*--text_embeds_column"),
    "of text": (embeds_of(["x"] * 6, Value("string")), f"'text_embeds', every row: .*string.* {NO_LIST}"),
    "of integers": (embeds_of([[1, 0, 0, 0]] * 6, List(Value("int8"), length=DIM)), f"every row: .*int8.* {NO_LIST}"),
    "of any length": (embeds_of(UNIT + UNIT[:2], List(Value("float32"))), f"every row: .*float32.* {NO_LIST}"),
    "lists of any length": (embeds_of([UNIT] * 6, List(List(Value("float16")))), f"every row: .*{NO_LIST}"),
    "too deep": (embeds_of([None] * 6, List(List(VECTOR))), "every row: .* is no list .*several a row as a List of"),
    "of another size": (embeds_of([[0, 1, 0]] * 6, List(Value("float16"), length=3)), "every row: 3 dim.* expects 4"),
    "NaN": (split_with(row=4, text_embeds=[np.nan] * DIM), "'text_embeds', row 4: NaN or infinite. Embed this cap"),
    "infinite": (split_with(row=1, text_embeds=[np.inf, 0, 0, 0]), "'text_embeds', row 1: NaN or infinite. Embed"),
    "zero": (split_with(row=2, text_embeds=[0] * DIM), "'text_embeds', row 2: a norm of zero. Embed.*set .* to null"),
    "long": (split_with(row=5, text_embeds=[0.6] * DIM), "'text_embeds', row 5: a norm other than 1. Embed this"),
    "no image": (split_with(row=3, image={"bytes": b"no", "path": None}), "row 3: The image 'ïd-3' cannot be decoded"),
    "cut image": (split_with(row=1, image=CUT), r"'image', row 1: The image 'ïd-1' cannot .*\). Replace the file"),
    "no file": (split_with(row=1, image={"bytes": None, "path": "/no/b.png"}), r"\(/no/b.png\) cannot be .* Replace"),
    "null image": (split_with(row=4, image=None), r"'image', row 4: .*'ïd-4' cannot be decoded \(null\). Replace"),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_error_says_column_row_and_remedy(fault):
    split, message = ERRORS[fault]
    with pytest.raises(ValueError, match=f"Split 'träin'.*{message}"):
        check(split)
    if fault in ("NaN", "of any length", "doubled id", "cut image"):  # of splits that are only evaluated too
        with pytest.raises(ValueError, match=message):
            check(split, text_embed_dim=None, training=False)


@pytest.mark.parametrize(
    "fault, message",
    [
        ([UNIT[0], [np.nan, 0, 0, 0]], "row 3: NaN or infinite"),
        ([UNIT[0], UNIT[1], [0, 2, 0, 0]], "row 3: a norm other than 1"),
        ([UNIT[0], None], "row 3: one of several embeddings is null. Leave it out of the row's list"),
    ],
    ids=["nan", "long", "null"],
)
def test_faults_among_several_embeddings_of_an_image_name_the_row(fault, message):
    with pytest.raises(ValueError, match=message):
        check(embeds_of([UNIT, None, UNIT[:3], fault, UNIT, UNIT], List(VECTOR)))


def test_good_rows_give_no_warning(caplog):
    assert check(split_with()) == {} and caplog.text == ""


UNUSUAL = {
    "null caption": (split_with(row=3, caption=None), "rows without caption, trained on", "'caption' (first: row 3)"),
    "empty caption": (split_with(row=3, caption=" \n"), "rows without caption, trained", "'caption' (first: row 3)"),
    "no embedding": (split_with(row=3, text_embeds=None), "rows without text_embeds,", "'text_embeds' (first: row 3)"),
    "empty list": (
        embeds_of([UNIT, UNIT, UNIT, [], UNIT[:2], UNIT], List(VECTOR)),
        "rows without text_embeds,",
        "'text_embeds' (first: row 3)",
    ),
    "empty class": (split_with(label=[0, 0, 1, 0, 1, 1]), "classes without an example", "'label' (first: '猫')"),
    "misspelt class": (
        split_with(label=[0, 2] * 3, features={"label": ClassLabel(names=["horse", "hosre", "cat"])}),
        "classes without an example",
        "'label' (first: 'hosre' Did you mean 'horse'?)",
    ),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_what_training_can_do_without_is_counted_and_told(kind, caplog):
    split, what, first = UNUSUAL[kind]
    ((counted, number),) = check(split).items()
    assert counted.startswith(what) and number == 1
    assert re.search(rf"Split 'träin': 1 {re.escape(what)}.*; column {re.escape(first)}", caplog.text)
    if "label" not in first:
        assert CaptionedImages(split, np.asarray).has_caption.tolist() == [True, True, True, False, True, True]
    caplog.clear()
    assert check(split, training=False) == {} and caplog.text == ""


GREY = np.asarray(PICTURE.convert("L"))
DEEP = np.linspace(0, 65535, 24, dtype=np.uint16).reshape(6, 4)  # Pillow alone would clip all above 255 to white
TURNS = {2: PIXELS[:, ::-1], 3: np.rot90(PIXELS, 2), 4: PIXELS[::-1], 5: PIXELS.transpose(1, 0, 2)}
TURNS |= {6: np.rot90(PIXELS, -1), 7: np.rot90(PIXELS, 2).transpose(1, 0, 2), 8: np.rot90(PIXELS)}


def oriented(orientation: int) -> dict:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    return make.stored(PICTURE, exif=exif)


def with_alpha(mode: str) -> dict:
    image = PICTURE.convert(mode)
    image.putalpha(PILImage.fromarray(np.full((6, 4), 128, dtype=np.uint8)))
    return make.stored(image)


def as_rgb(values: np.ndarray) -> np.ndarray:
    return np.stack([values.astype(np.uint8)] * 3, axis=-1)


PALETTE, CMYK = PICTURE.quantize(24, kmeans=1), PICTURE.convert("CMYK")
# kind -> (the encoded image, the pixels that the student must see)
IMAGES = {
    "grey": (make.stored(PICTURE.convert("L")), as_rgb(GREY)),
    "grey with alpha": (with_alpha("L"), as_rgb(GREY)),
    "one bit": (make.stored(PILImage.fromarray(PIXELS[..., 0] > 127)), as_rgb((PIXELS[..., 0] > 127) * 255)),
    "RGBA": (with_alpha("RGB"), PIXELS),
    "palette": (make.stored(PALETTE), np.asarray(PALETTE.convert("RGB"))),
    "CMYK": (make.stored(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB"))),
    "16-bit PNG": (make.stored(PILImage.fromarray(DEEP)), as_rgb(DEEP >> 8)),
    "16-bit TIFF": (make.stored(PILImage.fromarray(DEEP), "TIFF"), as_rgb(DEEP >> 8)),
    **{f"orientation {turn}": (oriented(turn), pixels) for turn, pixels in TURNS.items()},
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_unusual_image_becomes_upright_rgb(kind):
    image, expected = IMAGES[kind]
    split = split_with(image=[image, *good_rows()["image"][1:]])
    assert check(split) == {}
    mode, pixels = CaptionedImages(split, lambda image: (image.mode, np.asarray(image)))[0]["pixel_values"]
    assert mode == "RGB" and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)

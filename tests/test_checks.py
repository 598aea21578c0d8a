"""What is wrong with the data is said before the first step; what is only unusual is counted, and handled right."""

import io
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from g4i_hf.data.checks import DataError, check_split
from g4i_hf.data.dataset import CaptionedImages
from g4i_hf.data.images import open_image, to_rgb

ROOT = Path(__file__).parent.parent
CLASSES = ["ant", "bée", "猫"]
DIM = 4
FEATURES = Features(
    {
        "image": Image(decode=False),
        "label": ClassLabel(names=CLASSES),
        "image_id": Value("string"),
        "caption": Value("string"),
        "text_embeds": List(Value("float16"), length=DIM),
    }
)


def encoded(image: PILImage.Image, kind: str = "PNG", **options) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def good_rows(count: int = 6) -> dict[str, list]:
    rng = np.random.default_rng(0)
    return {
        "image": [encoded(PILImage.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))) for _ in range(count)],
        "label": [row % 3 for row in range(count)],
        "image_id": [f"ïd-{row}" for row in range(count)],
        "caption": [f"caption {row}" for row in range(count)],
        "text_embeds": [np.eye(DIM)[row % DIM].tolist() for row in range(count)],
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


def check(split: Dataset, **kwargs) -> dict[str, int]:
    return check_split(split, "träin", num_labels=3, **({"text_embed_dim": DIM} | kwargs))


RGB = np.random.default_rng(1).integers(0, 255, (6, 4, 3), dtype=np.uint8)
PICTURE = PILImage.fromarray(RGB)
NAN, ZERO, LONG = [float("nan")] * DIM, [0.0] * DIM, [0.6] * DIM
LIST = List(Value("float32"))
ERRORS = {
    "no label": (split_with(drop="label"), r"has no column 'label'. Its columns: image, .*--label_column"),
    "no text_embeds": (
        split_with(drop="text_embeds"),
        r"has no column 'text_embeds'. Its columns: image, .*g4i embed.*--text_embeds_column",
    ),
    "text_embeds of text": (
        split_with(text_embeds=["x"] * 6, features={"text_embeds": Value("string")}),
        r"column 'text_embeds', every row: .*string.* is no list of floats of fixed length. Store it as List\(",
    ),
    "text_embeds of integers": (
        split_with(text_embeds=[[1, 0, 0, 0]] * 6, features={"text_embeds": List(Value("int8"), length=DIM)}),
        r"column 'text_embeds', every row: .*int8.* is no list of floats of fixed length. Store it as List\(",
    ),
    "text_embeds of any length": (
        split_with(features={"text_embeds": LIST}),
        r"column 'text_embeds', every row: .*float32.* is no list of floats of fixed length. Store it as List\(",
    ),
    "text_embeds of another size": (
        split_with(text_embeds=[[0, 1, 0]] * 6, features={"text_embeds": List(Value("float16"), length=3)}),
        r"column 'text_embeds', every row: 3 dimensions, but the model expects 4. Embed again",
    ),
    "NaN": (
        split_with(row=4, text_embeds=NAN),
        r"column 'text_embeds', row 4: NaN or infinite. Embed this caption again",
    ),
    "infinite": (
        split_with(row=1, text_embeds=[np.inf, 0, 0, 0]),
        r"column 'text_embeds', row 1: NaN or infinite. Embed this caption again",
    ),
    "zero norm": (
        split_with(row=2, text_embeds=ZERO),
        r"column 'text_embeds', row 2: a norm of zero. Embed this caption again.*set .* to null",
    ),
    "not unit norm": (
        split_with(row=5, text_embeds=LONG),
        r"column 'text_embeds', row 5: a norm other than 1. Embed this caption again, with unit norm",
    ),
    "label too large": (
        split_with(row=3, label=3, features={"label": Value("int64")}),
        r"column 'label', row 3: 3 is out of range, there are 3 classes \(0 to 2\). Correct the label",
    ),
    "label negative": (
        split_with(row=3, label=-100, features={"label": Value("int64")}),
        r"column 'label', row 3: -100 is out of range, there are 3 classes \(0 to 2\). Correct the label",
    ),
    "unlabelled": (
        split_with(row=0, label=None),
        r"column 'label', row 0: unlabelled \(None\). Label the row, remove it",
    ),
    "doubled image_id": (
        split_with(row=5, image_id="ïd-1"),
        r"column 'image_id', row 5: 'ïd-1', which row 1 has too. Give every image an id of its own",
    ),
    "null image_id": (split_with(row=2, image_id=None), r"column 'image_id', row 2: null. Give every image an id"),
    "no image": (
        split_with(row=3, image={"bytes": b"no image at all", "path": None}),
        r"column 'image', row 3 \(ïd-3\): cannot be decoded \(no known image format\). Replace the file",
    ),
    "cut image": (
        split_with(row=1, image={"bytes": encoded(PICTURE.resize((99, 99)), "JPEG")["bytes"][:-99], "path": None}),
        r"column 'image', row 1 \(ïd-1\): cannot be decoded \(.*\). Replace the file or remove the row",
    ),
    "missing file": (
        split_with(row=1, image={"bytes": None, "path": "/nowhere/bée.png"}),
        r"column 'image', row 1 \(ïd-1\): cannot be decoded \(.*bée.png.*\). Replace the file or remove the row",
    ),
    "null image": (
        split_with(row=4, image=None),
        r"column 'image', row 4 \(ïd-4\): cannot be decoded \(null\). Replace",
    ),
    "caption_weight": (
        Dataset.from_dict(good_rows() | {"caption_weight": [1, 0, 0.5, None, 1.5, 1]}, features=None).cast(
            Features(FEATURES | {"caption_weight": Value("float32")})
        ),
        r"column 'caption_weight', row 4: 1.5. Give weights from 0",
    ),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_error_says_column_row_and_remedy(fault):
    split, message = ERRORS[fault]
    with pytest.raises(DataError, match=f"Split 'träin'.*{message}"):
        check(split)


@pytest.mark.parametrize("fault", ["NaN", "text_embeds of any length", "doubled image_id", "cut image"])
def test_splits_that_are_only_evaluated_are_checked_as_well(fault):
    split, message = ERRORS[fault]
    with pytest.raises(DataError, match=message):
        check(split, text_embed_dim=None, training=False)


def test_good_rows_give_no_warning(caplog):
    assert check(split_with()) == {} and caplog.text == ""


# --- Through the script ---------------------------------------------------------------------------------------------


@pytest.fixture
def finished_run(tmp_path):
    """An earlier run, which a new one with `overwrite: true` would replace."""
    run = tmp_path / "rün"
    (run / "checkpoint-3").mkdir(parents=True)
    (run / "student").mkdir()
    for file in ("all_results.json", "train.yaml", "model.safetensors", "checkpoint-3/model.safetensors", "student/x"):
        (run / file).write_text(f"earlier {file}: 1")
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SCRIPT_ERRORS = {
    "zero norm": (split_with(row=2, text_embeds=ZERO), "column 'text_embeds', row 2: a norm of zero. Embed"),
    "multi-label": (
        split_with(label=[[0, 1]] * 6, features={"label": List(ClassLabel(names=CLASSES))}),
        "Column 'label' of split 'train' holds lists: multi-label data is not supported. Give one class a row",
    ),
}


def train(folder: Path, split: Dataset, **options) -> subprocess.CompletedProcess:
    """`recipes/train.py` on this split, with a configuration file beside the data."""
    split.save_to_disk(folder / "däta")
    options |= {
        "dataset_name": "./däta",
        "output_dir": "./rün",
        "student": "resnet18",
        "image_size": 32,
        "use_cpu": True,
    }
    (folder / "träin.yaml").write_text(yaml.safe_dump(options, allow_unicode=True), encoding="utf-8")
    command = [sys.executable, str(ROOT / "recipes" / "train.py"), "--config", str(folder / "träin.yaml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("fault", SCRIPT_ERRORS)
def test_train_stops_without_traceback_and_leaves_an_earlier_run_alone(tmp_path, finished_run, fault):
    split, message = SCRIPT_ERRORS[fault]
    before = contents(finished_run)
    done = train(tmp_path, split, overwrite=True)
    assert done.returncode == 2
    assert "error: " in done.stderr and message in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(finished_run) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["däta", "rün", "träin.yaml"]


@pytest.mark.slow
def test_train_warns_of_unusual_rows_and_goes_on(tmp_path):
    grey = encoded(PILImage.new("L", (40, 30), 99))
    split = split_with(row=2, image=grey, caption=None, text_embeds=None, label=1)
    split = split.select([0, 1, 2, 3])
    student_args = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    done = train(tmp_path, split, student_args=student_args, max_steps=1, save_strategy="no", report_to="none")
    assert done.returncode == 0, done.stderr
    for warning in (
        "column 'image' (first: row 2): grey images, converted to upright RGB: 1",
        "column 'caption' (first: row 2): rows without caption, trained on their label alone: 1",
        "column 'text_embeds' (first: row 2): rows without text_embeds, trained on their label alone: 1",
        "column 'label' (first: '猫'): classes without an example: 1",
    ):
        assert f"Split 'train', {warning}" in done.stderr
    assert (tmp_path / "rün" / "model.safetensors").is_file()


# --- Unusual images -------------------------------------------------------------------------------------------------

GREY = np.asarray(PICTURE.convert("L"))
DEEP = np.linspace(0, 65535, 24, dtype=np.uint16).reshape(6, 4)
ROTATED = PILImage.Exif()
ROTATED[0x0112] = 6  # the camera was turned: shown right after a quarter turn clockwise


def with_alpha(mode: str) -> PILImage.Image:
    image = PICTURE.convert(mode)
    image.putalpha(PILImage.fromarray(np.full((6, 4), 128, dtype=np.uint8)))
    return image


# kind -> (what is counted, the encoded image, the pixels that the student must see)
UNUSUAL = {
    "grey": ("grey", encoded(PICTURE.convert("L")), np.stack([GREY] * 3, axis=-1)),
    "grey-alpha": ("grey", encoded(with_alpha("L")), np.stack([GREY] * 3, axis=-1)),
    "black-and-white": (
        "grey",
        encoded(PILImage.fromarray(RGB[..., 0] > 127)),
        np.stack([(RGB[..., 0] > 127) * np.uint8(255)] * 3, axis=-1),
    ),
    "rgba": ("RGBA", encoded(with_alpha("RGB")), RGB),
    "palette": (
        "palette",
        encoded(PICTURE.quantize(24, kmeans=1)),
        np.asarray(PICTURE.quantize(24, kmeans=1).convert("RGB")),
    ),
    "cmyk": ("CMYK", encoded(PICTURE.convert("CMYK"), "TIFF"), np.asarray(PICTURE.convert("CMYK").convert("RGB"))),
    "16-bit-png": ("16-bit", encoded(PILImage.fromarray(DEEP)), np.stack([(DEEP >> 8).astype(np.uint8)] * 3, axis=-1)),
    "16-bit-tiff": (
        "16-bit",
        encoded(PILImage.fromarray(DEEP), "TIFF"),
        np.stack([(DEEP >> 8).astype(np.uint8)] * 3, axis=-1),
    ),
    "exif-rotated": ("EXIF-rotated", encoded(PICTURE, exif=ROTATED), np.rot90(RGB, k=-1)),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_image_is_counted_and_becomes_upright_rgb(kind, caplog):
    what, image, expected = UNUSUAL[kind]
    split = split_with(image=[image, good_rows()["image"][0], image, image] + good_rows()["image"][:2])
    with caplog.at_level(logging.WARNING):
        assert check(split) == {f"{what} images, converted to upright RGB": 3}
    message = f"Split 'träin', column 'image' (first: row 0): {what} images, converted to upright RGB: 3"
    assert caplog.messages == [message]
    item = CaptionedImages(split, lambda image: (image.mode, np.asarray(image)))[0]
    mode, pixels = item["pixel_values"]
    assert mode == "RGB" and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


def test_16_bit_images_keep_their_range():
    """Pillow's own conversion clips everything above 255 to white."""
    pixels = np.asarray(to_rgb(open_image(UNUSUAL["16-bit-png"][1])))[..., 0].ravel()
    assert pixels[0] == 0 and pixels[-1] == 255
    assert len(np.unique(pixels)) == DEEP.size and (np.diff(pixels.astype(int)) > 0).all()


def test_every_exif_orientation_is_undone():
    turns = {1: RGB, 2: RGB[:, ::-1], 3: np.rot90(RGB, 2), 4: RGB[::-1], 5: RGB.transpose(1, 0, 2)}
    turns |= {6: np.rot90(RGB, -1), 7: np.rot90(RGB, 2).transpose(1, 0, 2), 8: np.rot90(RGB)}
    for orientation, expected in turns.items():
        exif = PILImage.Exif()
        exif[0x0112] = orientation
        np.testing.assert_array_equal(np.asarray(to_rgb(open_image(encoded(PICTURE, exif=exif)))), expected)


# --- Rows without caption, classes without rows ---------------------------------------------------------------------


def test_rows_without_embedding_are_counted_and_train_on_their_label_alone(caplog):
    embeds = good_rows()["text_embeds"]
    split = split_with(text_embeds=[embeds[0], None, embeds[2], embeds[3], None, embeds[5]])
    assert check(split) == {"rows without text_embeds, trained on their label alone": 2}
    assert "column 'text_embeds' (first: row 1): rows without text_embeds" in caplog.text
    items = [CaptionedImages(split, np.asarray)[row] for row in range(6)]
    assert [item["caption_weight"] for item in items] == [1, 0, 1, 1, 0, 1]
    assert [item["labels"] for item in items] == [0, 1, 2, 0, 1, 2]
    for row in (1, 4):
        assert not items[row]["text_embeds"].any()
    np.testing.assert_array_equal(items[3]["text_embeds"], np.asarray([embeds[3]], dtype=np.float16))


@pytest.mark.parametrize("blank", [None, "", " \n"], ids=["null", "empty", "spaces"])
def test_rows_without_caption_are_counted_and_train_on_their_label_alone(blank, caplog):
    split = split_with(row=3, caption=blank)
    assert check(split) == {"rows without caption, trained on their label alone": 1}
    assert "column 'caption' (first: row 3): rows without caption" in caplog.text
    assert CaptionedImages(split, np.asarray).caption_weight.tolist() == [1, 1, 1, 0, 1, 1]


def test_caption_weight_counts_only_where_there_is_a_caption():
    split = split_with(row=1, caption=None).add_column("caption_weight", [0.5, 1.0, None, 0.0, 1.0, 0.25])
    assert CaptionedImages(split, np.asarray).caption_weight.tolist() == [0.5, 0, 0, 0, 1, 0.25]


def test_missing_captions_of_a_split_that_is_only_evaluated_are_no_warning(caplog):
    assert check(split_with(row=3, caption=None, text_embeds=None), training=False) == {}
    assert caplog.text == ""


def test_class_without_examples_is_counted_and_named(caplog):
    split = split_with(label=[0, 0, 1, 0, 1, 1])
    assert check(split) == {"classes without an example": 1}
    assert "column 'label' (first: '猫'): classes without an example: 1" in caplog.text
    assert check(split, training=False) == {}


def test_a_class_that_another_split_spells_otherwise_is_said_with_the_nearest_name(caplog):
    names = ClassLabel(names=["horse", "hosre", "cat"])
    check(split_with(label=[0, 2, 0, 2, 0, 2], features={"label": names}))
    assert "(first: 'hosre', perhaps a slip for 'horse'): classes without an example: 1" in caplog.text


def test_several_unusual_things_are_all_reported(caplog):
    split = split_with(row=2, image=UNUSUAL["grey"][1], caption=None, text_embeds=None)
    assert sorted(check(split).values()) == [1, 1, 1] and len(caplog.messages) == 3

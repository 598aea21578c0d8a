"""What is wrong with the data is said before the first step; what is only unusual is handled right."""

import contextlib
import io
import resource
import struct
import warnings
import zlib

import make
import numpy as np
import pytest
from datasets import Dataset, Image, List, Value
from doors import ROOT, python
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from g4i_hf.data.checks import check_split, readable_rows
from g4i_hf.data.dataset import CaptionedImages
from g4i_hf.data.image_metadata import without_metadata
from g4i_hf.data.images import UndecodableImage, clean_jpeg, decode, why_bad
from g4i_hf.pages import thumbnail

CLASSES, DIM = ["ant", "bée", "猫"], 4
SEVERAL = List(List(Value("float16"), length=DIM))
UNIT = np.eye(DIM).tolist()


def split_with(row: int | None = None, drop: str | None = None, feature=None, **values) -> Dataset:
    """Good rows, except for a value in `row`, or for a whole column, perhaps of another feature."""
    ids, captions = ([f"{word}{number}" for number in range(6)] for word in ("ïd-", "caption "))
    split = make.rows(6, CLASSES, image_id=ids, caption=captions, text_embeds=[UNIT[n % DIM] for n in range(6)])
    for column, value in values.items():
        good, own = split[column][:], split.features[column]
        value = value if row is None else [*good[:row], value, *good[row + 1 :]]
        split = split.remove_columns(column).add_column(column, value, feature=feature or own)
    return split.remove_columns(drop) if drop else split


def check(split: Dataset, **kwargs) -> None:
    check_split(split, "träin", num_labels=3, **({"text_embed_dim": DIM} | kwargs))
    readable_rows(split, "träin", "error")


PICTURE = make.noise(1, 4, 6)
CUT = {"bytes": make.stored(PICTURE.resize((99, 99)), "JPEG")["bytes"][:-99], "path": None}
NO_LIST = "is no list of floats of fixed length. Store it as List"
THREE_ROWS = [UNIT, None, UNIT[:3]]  # several embeddings a row
# Fault -> the split, and what the message says after its name
ERRORS = {
    "no label": (split_with(drop="label"), "has no column 'label'. Its columns: image, .*--label_column"),
    "label too large": (split_with(3, label=3, feature=Value("int64")), r"'label', row 3: 3 is out .* \(0 to 2\)"),
    "doubled id": (split_with(5, image_id="ïd-1"), "'image_id', row 5: 'ïd-1', which row 1 has too. Give every"),
    "no embeddings": (split_with(drop="text_embeds"), "has no column 'text_embeds'.*g4i embed.*--text_encoder"),
    "of any length": (
        split_with(text_embeds=UNIT + UNIT[:2], feature=List(Value("float32"))),
        f"every row: .*float32.* {NO_LIST}",
    ),
    "of another size": (
        split_with(text_embeds=[[0, 1, 0]] * 6, feature=List(Value("float16"), length=3)),
        "every row: 3 dim.* expects 4",
    ),
    "NaN": (split_with(4, text_embeds=[np.nan] * DIM), "'text_embeds', row 4: NaN or infinite. Embed this cap"),
    "zero": (split_with(2, text_embeds=[0] * DIM), "'text_embeds', row 2: a norm of zero. Embed.*set .* to null"),
    "long": (split_with(5, text_embeds=[0.6] * DIM), "'text_embeds', row 5: a norm other than 1. Embed this"),
    "long among several": (
        split_with(text_embeds=[*THREE_ROWS, [UNIT[0], UNIT[1], [0, 2, 0, 0]], UNIT, UNIT], feature=SEVERAL),
        "row 3: a norm other than 1",
    ),
    "null among several": (
        split_with(text_embeds=[*THREE_ROWS, [UNIT[0], None], UNIT, UNIT], feature=SEVERAL),
        "row 3: one of several embeddings is null. Leave it out of the row's list",
    ),
    "cut image": (split_with(1, image=CUT), "'image', row 1: .*cannot be decoded: 'ïd-1': .* Replace the file"),
    "null image": (split_with(4, image=None), "'image', row 4: .*cannot be decoded: 'ïd-4': null. Replace"),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_error_says_column_row_and_remedy(fault):
    split, message = ERRORS[fault]
    with pytest.raises(ValueError, match=f"Split 'träin'.*{message}"):
        check(split)
    if fault in ("NaN", "of any length", "doubled id", "cut image"):  # of splits that are only evaluated too
        with pytest.raises(ValueError, match=message):
            check(split, text_embed_dim=None, training=False)


def test_captions_that_are_lists_written_as_text_are_said(caplog):
    check(split_with(caption=["['a red dot', \"it's round\"]"] * 6), training=False)
    assert "lists written as text" in caplog.text and "ast.literal_eval" in caplog.text
    caplog.clear()
    check(split_with(caption=["['a red dot']"] * 5 + ["a dot"]), training=False)
    check(split_with(caption=["[a dot]"] * 6), training=False)
    assert not caplog.text


GREY = np.asarray(PICTURE.convert("L"))


def as_rgb(values: np.ndarray) -> np.ndarray:
    return np.stack([values.astype(np.uint8)] * 3, axis=-1)


CMYK = PICTURE.convert("CMYK")
# kind -> (the encoded image, the pixels that the student must see)
IMAGES = {
    "grey": (make.stored(PICTURE.convert("L")), as_rgb(GREY)),
    "CMYK": (make.stored(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB"))),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_unusual_image_becomes_rgb(kind):
    """Upright too: test_image_metadata.py."""
    image, expected = IMAGES[kind]
    split = split_with(0, image=image)
    check(split)
    pixels = CaptionedImages(split, np.asarray)[0]["pixel_values"]
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


# --- Files that call themselves images: decoded, or refused with a message that names the image ----------------------

NAMED, CANARY = "cats/1.jpg", b"canary-of-ann"
SAVED = {
    "JPEG": ("RGB", {}),
    "JPEG, CMYK": ("CMYK", {}),
    "JPEG, progressive": ("RGB", {"progressive": True}),
    "WEBP": ("RGBA", {}),
    **{f"{kind}, moving": ("RGB", {"save_all": True, "duration": 40}) for kind in ("GIF", "WEBP", "PNG")},
}


def file_of(kind: str) -> bytes:
    mode, options = SAVED[kind]
    frame = make.noise(0, 24).convert(mode)
    if options.get("save_all"):
        options = options | {"append_images": [make.noise(1, 24)]}
    return make.content(frame, kind.split(",")[0], **options, **({"comment": CANARY} if "JPEG" in kind else {}))


FILES = {kind: file_of(kind) for kind in SAVED}


def bomb(side: int) -> bytes:
    """A PNG of a single pixel whose header says that it is large."""
    content = bytearray(make.content(PILImage.new("L", (1, 1))))
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def look(content: bytes) -> bool:
    """Takes a file through all that opens images; whether it is one."""
    image = {"bytes": content, "path": None}
    split = make.rows(1, image=[image], image_id=[NAMED])
    examples = CaptionedImages(split, np.asarray)
    if why_bad(image) is not None:
        with pytest.raises(ValueError, match=f"cannot be decoded.*{NAMED}"):
            readable_rows(split, "train", "error")
        with pytest.raises(ValueError, match=NAMED):
            examples[0]
        for opens in (decode, clean_jpeg):
            with pytest.raises(UndecodableImage) as error:
                opens(image, 64)
            assert "/" not in str(error.value)
        assert thumbnail([{"image": image}], 0) is None
        return False
    readable_rows(split, "train", "error")
    pixels = examples[0]["pixel_values"]
    assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    assert decode(image, 64).mode == "RGB" and thumbnail([{"image": image}], 0) is not None
    PILImage.open(io.BytesIO(clean_jpeg(image, 64))).load()
    with contextlib.suppress(ValueError):  # of a mode that PNG lacks
        published = without_metadata(image)
        before, after = (Image().decode_example(each) for each in (image, published))
        assert before.mode == after.mode and before.tobytes() == after.tobytes() and CANARY not in published["bytes"]
    return True


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_image_is_decoded(kind):
    assert look(FILES[kind])


@pytest.mark.parametrize("side", [20_000, 2**31 - 1])
def test_a_bomb_is_refused_before_it_goes_off(side):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not look(bomb(side))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


FOUR = """
import resource
import make
from PIL import Image
from g4i_hf.data.checks import readable_rows

split = make.rows(4, image=[make.stored(Image.new("1", (6000, 6000)))] * 4)
Image.MAX_IMAGE_PIXELS = 20_000_000  # Pillow opens images of at most two times as many
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(readable_rows(split, "train")) == 4
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_threads_together_decode_no_more_than_one_image_may_have():
    """A file of 5 kB, of one bit a pixel, becomes 144 MB of RGB beside its own; four at once would take 860."""
    assert int(python(FOUR, env={"PYTHONPATH": str(ROOT / "tests")})) < 300_000  # KiB


@given(st.sampled_from(sorted(FILES)), st.data())
def test_broken_files_are_decoded_or_named(kind, data):
    content = bytearray(FILES[kind])
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(content)))
        del content[start : data.draw(st.integers(start, len(content)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        look(bytes(content))

"""Files that call themselves images: decoded, or refused with a message that names the image; nothing else."""

import io
import resource
import struct
import warnings
import zlib

import make
import numpy as np
import pytest
from datasets import Image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from g4i_hf.data.checks import check_split
from g4i_hf.data.dataset import CaptionedImages
from g4i_hf.data.image_metadata import without_metadata
from g4i_hf.data.images import UndecodableImage, clean_jpeg, decode
from g4i_hf.pages import thumbnail

ID, CANARY = "cats/1.jpg", b"canary-of-ann"
SAVED = {
    "JPEG": ("RGB", {}),
    "JPEG, CMYK": ("CMYK", {}),
    "JPEG, progressive": ("RGB", {"progressive": True}),
    "PNG, palette": ("P", {}),
    "PNG, 16 bits": ("I;16", {}),
    "WEBP": ("RGBA", {}),
    **{f"{kind}, moving": ("RGB", {"save_all": True, "duration": 40}) for kind in ("GIF", "WEBP", "PNG")},
    "TIFF": ("RGB", {}),
    "BMP": ("RGB", {}),
}


def file_of(kind: str) -> bytes:
    mode, options = SAVED[kind]
    deep = PILImage.fromarray(np.full((24, 24), 40_000, np.uint16))
    frame = deep if mode == "I;16" else make.noise(0, 24).convert(mode)
    if options.get("save_all"):
        options = options | {"append_images": [make.noise(1, 24)]}
    return make.content(frame, kind.split(",")[0], **options, **({"comment": CANARY} if "JPEG" in kind else {}))


FILES = {kind: file_of(kind) for kind in SAVED}


def png_of(width: int, height: int) -> bytes:
    """A PNG of any size in a few bytes, all of it one colour as far as it is there."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def look(content: bytes) -> bool:
    """Takes a file through all that opens images; whether it is one."""
    image, is_image = {"bytes": content, "path": None}, True
    split = make.rows(1, image=[image], image_id=[ID])
    try:
        check_split(split, "train", num_labels=1)
    except ValueError as error:
        is_image = False
        assert ID in str(error) and "cannot be decoded" in str(error)
    examples = CaptionedImages(split, lambda picture: np.asarray(picture))
    if is_image:
        pixels = examples[0]["pixel_values"]
        assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8
    else:
        with pytest.raises(ValueError, match=ID):
            examples[0]
    try:
        assert decode(image, 64).mode == "RGB" and is_image
    except UndecodableImage as error:
        assert not is_image and "/" not in str(error)
    assert (thumbnail([{"image": image}], 0) is not None) == is_image
    try:
        sent = clean_jpeg(image, 64)
        PILImage.open(io.BytesIO(sent)).load()
    except UndecodableImage:
        assert not is_image
    try:
        published = without_metadata(image)
    except ValueError as error:
        assert str(error)
    else:  # what `datasets` decodes is the same picture
        before, after = (Image().decode_example(each) for each in (image, published))
        assert before.mode == after.mode and before.tobytes() == after.tobytes() and CANARY not in published["bytes"]
    return is_image


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_image_is_decoded(kind):
    assert look(FILES[kind])


@pytest.mark.parametrize("side", [20_000, 2**31 - 1])
def test_a_bomb_is_refused_before_it_goes_off(side):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not look(png_of(side, side))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


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

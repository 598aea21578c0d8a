"""Images as they are sent: the pixels, the size, and nothing that identifies a person or a place."""

import base64
import io
import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from g4i_hf.captioning import images
from g4i_hf.captioning.images import UndecodableImage, clean_jpeg, data_uri
from g4i_hf.data.image_metadata import Malformed

CANARY = b"canary-of-somebody"


def photograph(width: int = 500, height: int = 375, seed: int = 0) -> Image.Image:
    """Smooth colours with some noise."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return Image.fromarray((smooth + generator.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}) | options)
    return buffer.getvalue()


def row(data: bytes) -> dict:
    return {"bytes": data, "path": None}


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def exif_with_canary(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x013B] = CANARY.decode()  # artist
    exif.get_ifd(0x8825)[29] = CANARY.decode()  # date of the GPS
    return exif.tobytes()


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def with_everything(data: bytes) -> bytes:
    """A JPEG with a canary in every place that a JPEG has for one."""
    thumbnail = b"JFXX\0\x10" + encoded(photograph(16, 12), comment=CANARY)
    extra = segment(0xE0, thumbnail)
    extra += b"".join(segment(0xE0 + number, b"any\0" + CANARY) for number in range(1, 16) if number != 14)
    extra += segment(0xFE, CANARY) + segment(0xEE, b"other" + CANARY)
    extra += segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>" + CANARY + b"</x>")
    later = data.rindex(b"\xff\xda")  # before the last scan
    return data[:2] + extra + data[2:later] + segment(0xFE, CANARY) + data[later:] + CANARY + data


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 2}], ids=str
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_that_fits_keeps_its_coded_pixels_and_nothing_else(mode, options):
    image = photograph().convert(mode)
    plain = encoded(image, **options)
    dirty = with_everything(encoded(image, exif=exif_with_canary(), comment=CANARY, icc_profile=CANARY * 9, **options))
    assert dirty.count(CANARY) > 20
    sent = clean_jpeg(row(dirty), max_side=500)
    assert CANARY not in sent
    assert sent == plain
    assert np.array_equal(opened(sent), opened(dirty))
    assert not opened(sent).getexif()


@pytest.mark.parametrize(
    "kind, options",
    [
        ("JPEG", {"exif": exif_with_canary(), "comment": CANARY, "xmp": CANARY, "icc_profile": CANARY * 9}),
        ("WEBP", {"exif": exif_with_canary(), "xmp": CANARY, "icc_profile": CANARY * 9}),
        ("TIFF", {"exif": exif_with_canary(), "description": CANARY.decode()}),
        ("GIF", {"comment": CANARY}),
    ],
)
def test_an_image_that_is_encoded_anew_carries_nothing_over(kind, options):
    dirty = encoded(photograph(), kind, **options)
    assert CANARY in dirty
    sent = clean_jpeg(row(dirty), max_side=200)
    assert CANARY not in sent and not opened(sent).getexif()
    assert {"comment", "exif", "xmp", "icc_profile", "photoshop"}.isdisjoint(opened(sent).info)


def test_text_of_a_png_is_not_carried_over():
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", CANARY.decode())
    info.add_itxt("XML:com.adobe.xmp", CANARY.decode())
    dirty = encoded(photograph(), "PNG", pnginfo=info, exif=exif_with_canary())
    assert dirty.count(CANARY) > 2
    assert CANARY not in clean_jpeg(row(dirty), max_side=768)


@pytest.mark.parametrize("max_side, size", [(768, (500, 375)), (500, (500, 375)), (200, (200, 150)), (60, (60, 45))])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_are_shrunk_to_the_longest_side_and_never_enlarged(kind, max_side, size):
    sent = opened(clean_jpeg(row(encoded(photograph(), kind)), max_side))
    assert (sent.format, sent.size) == ("JPEG", size)
    reference = np.asarray(photograph().resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    assert np.abs(np.asarray(sent, dtype=np.float32) - reference).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("max_side", [768, 100])
def test_orientation_is_applied(orientation, max_side):
    """The red corner is where a viewer sees it."""
    pixels = np.zeros((300, 400, 3), dtype=np.uint8)
    pixels[:60, :60] = 255, 0, 0
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), exif=exif.tobytes())
    sent = np.asarray(opened(clean_jpeg(row(data), max_side)).convert("RGB"), dtype=int)
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        # A little inwards, as JPEG rings at edges
        place = tuple(3 if side == 0 else -4 for side in corner)
        assert (sent[place][0] > 150) == (corner == corners[orientation]), corner
    assert sent.shape[:2] == tuple(
        round(min(1, max_side / 400) * s) for s in ((300, 400)[:: 1 if orientation < 5 else -1])
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_every_mode_becomes_8_bits_of_colour(mode):
    if mode == "I;16":
        image = Image.fromarray(np.full((40, 50), 40_000, dtype=np.uint16))
    else:
        image = photograph(50, 40).convert(mode)
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
    sent = opened(clean_jpeg(row(encoded(image, kind)), 768))
    assert sent.mode == "RGB" and sent.size == (50, 40)
    if mode == "I;16":
        assert abs(int(np.asarray(sent)[20, 25, 0]) - (40_000 >> 8)) < 3


def test_a_tiny_image_keeps_its_colours_at_full_resolution():
    pixels = np.zeros((48, 48, 3), dtype=np.uint8)
    pixels[:, ::2], pixels[:, 1::2] = (255, 0, 0), (0, 0, 255)
    sent = np.asarray(opened(clean_jpeg(row(encoded(Image.fromarray(pixels), "PNG")), 768)), dtype=int)
    assert np.abs(sent - pixels).mean() < 10


def test_a_file_is_read_by_its_path(tmp_path):
    (tmp_path / "ä.jpg").write_bytes(encoded(photograph()))
    uri = data_uri({"bytes": None, "path": str(tmp_path / "ä.jpg")}, 768)
    assert base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")) == encoded(photograph())
    with pytest.raises(UndecodableImage, match="no such file"):
        data_uri({"bytes": None, "path": str(tmp_path / "missing.jpg")}, 768)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("max_side", [768, 100])
def test_a_truncated_jpeg_is_undecodable(part, max_side, progressive):
    data = encoded(photograph(), progressive=progressive)
    with pytest.raises(UndecodableImage):
        data_uri(row(data[: int(len(data) * part)]), max_side)


def test_a_jpeg_with_broken_tables_is_undecodable():
    """Its segments are all there; only decoding it shows that it is broken."""
    data = bytearray(encoded(photograph()))
    tables = data.index(b"\xff\xc4")
    data[tables + 5 : tables + 21] = b"\xff" * 16  # how many codes there are of each length
    with pytest.raises(UndecodableImage):
        data_uri(row(bytes(data)), 768)


def test_a_thumbnail_in_the_header_is_not_sent():
    """Of a picture that was cropped later it shows the rest."""
    data = encoded(photograph())
    assert data[2:4] == b"\xff\xe0" and data[4:6] == b"\0\x10"
    thumbnail = CANARY + bytes(3 * 6 * 3 - len(CANARY))
    header = data[6:18] + bytes((6, 3)) + thumbnail  # 6 x 3 pixels
    sent = clean_jpeg(row(data[:2] + segment(0xE0, header) + data[20:]), 768)
    assert CANARY not in sent and np.array_equal(opened(sent), opened(data))


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff", encoded(photograph(), "PNG")[:900]])
def test_what_is_no_image_is_undecodable(data):
    with pytest.raises(UndecodableImage) as raised:
        data_uri(row(data), 768)
    assert 0 < len(str(raised.value)) < 200


def test_a_null_is_undecodable():
    with pytest.raises(UndecodableImage):
        data_uri(None, 768)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_decompression_bomb_is_not_opened(kind, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500 * 375 // 2 - 1)
    with pytest.raises(UndecodableImage, match="more pixels"):
        data_uri(row(encoded(photograph(), kind)), 768)


def test_rubbish_in_a_header_never_raises_anything_else():
    """Whatever Pillow trips over in a broken file, the answer is `undecodable`, or an image."""
    generator = np.random.default_rng(0)
    whole = [encoded(photograph(60, 40), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")]
    outcomes = set()
    for _ in range(300):
        data = bytearray(whole[generator.integers(len(whole))])
        for place in generator.integers(0, min(len(data), 400), 8):
            data[place] = generator.integers(256)
        try:
            assert opened(clean_jpeg(row(bytes(data)), 100)).format == "JPEG"
            outcomes.add("image")
        except UndecodableImage:
            outcomes.add("undecodable")
    assert outcomes == {"image", "undecodable"}


def test_tiff_of_another_world_is_converted():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[315] = CANARY.decode()
    dirty = encoded(photograph(), "TIFF", tiffinfo=tags)
    assert CANARY in dirty and CANARY not in clean_jpeg(row(dirty), 768)


def test_a_jpeg_that_is_not_laid_out_as_expected_is_encoded_anew(monkeypatch):
    """Rather than sent with what could not be understood in it."""
    data = encoded(photograph())
    filled = data[:2] + b"\xff\xff" + data[2:]  # fill bytes before a marker are legal
    assert clean_jpeg(row(filled), 768) == data

    def odd(*_, **__):
        raise Malformed("odd")

    monkeypatch.setattr(images, "jpeg_without_metadata", odd)
    sent = clean_jpeg(row(data), 768)
    assert sent != data and opened(sent).size == (500, 375)

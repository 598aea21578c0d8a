"""Images as captioners get them: the pixels, upright and shrunk, and nothing that identifies a person or a place."""

import io
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from make import content
from PIL import Image, PngImagePlugin

from g4i_hf.data.images import UndecodableImage, clean_jpeg, data_uri, decode

CANARY = b"canary-of-somebody"


def photograph() -> Image.Image:
    """Smooth colours with some noise."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.float32)
    return Image.fromarray((smooth + generator.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))


def row(data: bytes) -> dict:
    return {"bytes": data, "path": None}


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def exif(orientation: int = 1) -> bytes:
    """With a canary in the artist's name and the date of the GPS."""
    found = Image.Exif()
    found[0x0112], found[0x013B] = orientation, CANARY.decode()
    found.get_ifd(0x8825)[29] = CANARY.decode()
    return found.tobytes()


def test_an_address_in_place_of_an_image_is_not_opened(tmp_path):
    """Whoever made a Parquet file would choose what this machine requests."""
    photograph().save(tmp_path / "1.jpg")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UndecodableImage, match="there is no such file"):
            data_uri({"bytes": None, "path": f"http://127.0.0.1:{server.server_port}/1.jpg"}, 768)
        server.shutdown()


def png_texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", CANARY.decode())
    info.add_itxt("XML:com.adobe.xmp", CANARY.decode())
    return info


@pytest.mark.parametrize(
    "kind, options",
    [
        ("JPEG", {"exif": exif(), "comment": CANARY, "xmp": CANARY, "icc_profile": CANARY * 9}),
        ("WEBP", {"exif": exif(), "xmp": CANARY, "icc_profile": CANARY * 9}),
        ("TIFF", {"exif": exif(), "description": CANARY.decode()}),
        ("GIF", {"comment": CANARY}),
        ("PNG", {"exif": exif(), "pnginfo": png_texts()}),
    ],
)
@pytest.mark.parametrize("max_side", [768, 200])
def test_an_image_that_is_encoded_anew_carries_nothing_over(kind, options, max_side):
    dirty = content(photograph(), kind, **options)
    sent = clean_jpeg(row(dirty), max_side)
    assert CANARY in dirty and CANARY not in sent and not opened(sent).getexif()
    assert {"comment", "exif", "xmp", "icc_profile", "photoshop"}.isdisjoint(opened(sent).info)


@pytest.mark.parametrize("max_side, size", [(768, (500, 375)), (200, (200, 150))])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_are_shrunk_to_the_longest_side_and_never_enlarged(kind, max_side, size):
    image = row(content(photograph(), kind))
    sent = opened(clean_jpeg(image, max_side))
    assert (sent.format, sent.size) == ("JPEG", size) == ("JPEG", decode(image, max_side).size)
    reference = np.asarray(photograph().resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    for shrunk in (sent, decode(image, max_side)):
        assert np.abs(np.asarray(shrunk, dtype=np.float32) - reference).mean() < 6
    assert decode(row(content(Image.new("RGB", (1000, 1)))), 100).size == (100, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("max_side", [768, 100])
def test_orientation_is_applied(orientation, max_side):
    """The red corner is where a viewer sees it."""
    pixels = np.zeros((300, 400, 3), dtype=np.uint8)
    pixels[:60, :60] = 255, 0, 0
    data = row(content(Image.fromarray(pixels), "JPEG", quality=90, exif=exif(orientation)))
    red = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[orientation]
    height, width = (300, 400) if orientation < 5 else (400, 300)
    scale = min(1, max_side / 400)
    for upright in (opened(clean_jpeg(data, max_side)).convert("RGB"), decode(data, max_side)):
        assert upright.size == (round(scale * width), round(scale * height))
        for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            place = tuple(3 if side == 0 else -4 for side in corner)  # a little inwards, as JPEG rings at edges
            assert (int(np.asarray(upright)[place][0]) > 150) == (corner == red), corner

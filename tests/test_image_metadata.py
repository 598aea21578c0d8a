"""Published images hold the same picture and nothing else, and so do those that captioners get, upright and shrunk."""

import io
import re
import struct

import make
import numpy as np
import pytest
from datasets import Image
from PIL import ExifTags, ImageCms, PngImagePlugin
from PIL import Image as PILImage

from g4i_hf.data.image_metadata import without_metadata
from g4i_hf.data.images import UndecodableImage, clean_jpeg, data_uri, decode

CANARY = "canary-of-ann"
XMP = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><r a="{CANARY}" {{}}/></rdf:RDF></x:xmpmeta>'
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(mode: str = "RGB", seed: int = 0) -> PILImage.Image:
    if mode == "I;16":
        return PILImage.fromarray(np.arange(384, dtype=np.uint16).reshape(16, 24))
    image = make.noise(seed, 24, 16)
    return image.quantize(7) if mode == "P" else image.convert("L" if mode == "F" else "RGB").convert(mode)


def exif(orientation: int | None = None) -> bytes:
    """A position, an owner and a description."""
    tags = PILImage.Exif()
    tags[ExifTags.Base.ImageDescription] = tags[ExifTags.Base.Artist] = CANARY
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = CANARY.encode()
    tags.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (48.0, 8.0, 1.5), 3: "E", 4: (11.0, 34.0, 2.5), 29: CANARY})
    if orientation is not None:
        tags[ExifTags.Base.Orientation] = orientation
    return tags.tobytes()


def opened(data: bytes) -> PILImage.Image:
    return PILImage.open(io.BytesIO(data))


def decoded(content: bytes) -> PILImage.Image:
    return Image().decode_example({"bytes": content, "path": None})


def check(content: bytes, suffix: str | None = None, path: str = "/home/ann/secret/x.dat") -> bytes:
    """The same picture under a bare name, without what gave it away; what is not encoded anew keeps its suffix."""
    found = without_metadata({"bytes": content, "path": path})
    suffix = suffix or (".dat" if content.startswith(b"\xff\xd8") else ".png")
    assert found["path"] == re.split(r"[\\/]", path)[-1].removesuffix(".dat") + suffix
    assert found["bytes"].startswith(b"\xff\xd8" if suffix == ".dat" else b"\x89PNG")
    before, after = decoded(content), decoded(found["bytes"])
    assert (after.mode, after.size) == (before.mode, before.size) and after.tobytes() == before.tobytes()
    assert after.convert("RGBA").tobytes() == before.convert("RGBA").tobytes()
    assert after.info.get("icc_profile") == before.info.get("icc_profile")
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        assert CANARY.encode(encoding) not in found["bytes"]
    kept = opened(found["bytes"]).getexif()
    assert set(kept) <= {ExifTags.Base.Orientation} and not kept.get_ifd(ExifTags.IFD.GPSInfo)
    assert without_metadata({"bytes": found["bytes"], "path": None}) == {"bytes": found["bytes"], "path": None}
    return found["bytes"]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_keeps_its_coefficients(mode):
    for progressive in (False, True):
        options = {"progressive": progressive, "quality": 60, "dpi": (72, 72)}
        content = make.content(picture(mode), "JPEG", exif=exif(), comment=CANARY, xmp=XMP.encode(), **options)
        plain = make.content(picture(mode), "JPEG", **options)
        assert CANARY.encode() in content
        assert check(content) == plain == check(plain)  # byte by byte what a camera without memory writes


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_and_colour_profile_stay(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    for orientation in (None, *range(1, 9)):
        stripped = check(make.content(picture(), kind, exif=exif(orientation), icc_profile=ICC, **options))
        turned = kind == "JPEG" and orientation in range(2, 9)  # others are upright themselves
        assert opened(stripped).getexif().get(0x0112) == (orientation if turned else None)
        assert decoded(stripped).size == ((16, 24) if orientation in range(5, 9) else (24, 16))
        assert decoded(stripped).info["icc_profile"] == ICC
    xmp, texts = XMP.format('tiff:Orientation="6"'), PngImagePlugin.PngInfo()  # orientation in XMP alone
    texts.add_itxt("XML:com.adobe.xmp", xmp)
    content = make.content(picture(), kind, **({"pnginfo": texts} if kind == "PNG" else {"xmp": xmp.encode()}))
    assert decoded(check(content)).size == decoded(content).size == (16, 24)


def test_jpeg_loses_thumbnails_second_pictures_and_what_follows():
    content = make.content(picture(), "MPO", save_all=True, append_images=[picture(seed=1)], exif=exif(6))
    assert opened(content).n_frames == 2
    stripped = check(content + b"MotionPhoto " + CANARY.encode())
    assert opened(stripped).format == "JPEG" and stripped.endswith(b"\xff\xd9")
    assert stripped.count(b"\xff\xd8\xff") == 1
    jfif = make.content(picture(), "JPEG")
    small = bytes([1, 1]) + CANARY.encode()[:3]
    with_thumbnail = jfif[:4] + struct.pack(">H", 16 + 3) + jfif[6:18] + small + jfif[20:]
    jfxx = b"\xff\xe0" + struct.pack(">H", 8 + len(CANARY)) + b"JFXX\0\x10" + CANARY.encode()
    assert check(with_thumbnail[:23] + jfxx + with_thumbnail[23:]) == jfif
    profile = make.content(picture(), "JPEG", icc_profile=ICC + bytes(150_000), exif=exif())  # which spans segments
    assert len(decoded(check(profile)).info["icc_profile"]) > 150_000
    check(jfif[:20] + CANARY.encode() + jfif[20:], ".png")  # bytes between segments, which Pillow skips


TEXTS = PngImagePlugin.PngInfo()
TEXTS.add_text("Author", CANARY)
TEXTS.add_text("Comment", CANARY, zip=True)
TEXTS.add_itxt("XML:com.adobe.xmp", XMP)
TEXTS.add(b"tIME", struct.pack(">HBBBBB", 2024, 1, 2, 3, 4, 5))
TEXTS.add(b"anNx", CANARY.encode())


@pytest.mark.parametrize(
    ("kind", "modes", "more"),
    [
        ("PNG", ("RGB", "RGBA", "LA", "1", "I;16", "P"), {"pnginfo": TEXTS, "exif": exif(8)}),
        ("GIF", ("P", "L", "1"), {"comment": CANARY}),
        ("BMP", ("RGB", "L", "P"), {}),
        ("TIFF", ("RGB", "RGBA", "L", "LA", "1", "P"), {"description": CANARY}),
        ("WEBP", ("RGB", "RGBA"), {"exif": exif(), "xmp": XMP.encode()}),
    ],
)
def test_other_formats_become_png(kind, modes, more):
    for mode in modes:
        found = check(make.content(picture(mode), kind, **more) + CANARY.encode(), path="C:\\Users\\ann\\x.old.dat")
        assert not any(chunk in found for chunk in (b"tIME", b"anNx", b"eXIf"))
    if kind in ("GIF", "PNG"):
        check(make.content(picture("P"), kind, transparency=0, icc_profile=ICC, **more))
    if kind == "TIFF":
        assert decoded(check(make.content(picture(), kind, exif=exif(6)))).size == (16, 24)


def stored(content: bytes | None, path: str | None = None) -> dict:
    return {"bytes": content, "path": path}


NO_IMAGE = [(None, "null"), (stored(None), "null")]
NO_IMAGE += [(stored(None, "/nowhere/x.png"), r"its file cannot be read \(No such file or directory\)$")]
NO_IMAGE += [(stored(b"no image"), r"cannot be decoded \(no known image format\)$")]
NO_IMAGE += [(stored(make.content(picture(mode), "TIFF")), f"does not hold its mode {mode}") for mode in ("CMYK", "F")]
NO_IMAGE += [(stored(make.content(make.noise(0, 64), kind)[:-60]), "cannot be decoded") for kind in ("JPEG", "PNG")]


@pytest.mark.parametrize(("image", "message"), NO_IMAGE)
def test_what_is_no_image_is_an_error_without_a_path(image, message):
    with pytest.raises(ValueError, match=message) as error:
        without_metadata(image)
    assert "/nowhere" not in str(error.value)


# --- As captioners get them ------------------------------------------------------------------------------------------

GRADIENTS = [PILImage.linear_gradient("L"), PILImage.radial_gradient("L"), PILImage.linear_gradient("L").rotate(90)]
PHOTOGRAPH = PILImage.merge("RGB", GRADIENTS).resize((500, 375))


def test_an_address_in_place_of_an_image_is_not_opened():
    """Whoever made a Parquet file would choose what this machine requests."""
    with pytest.raises(UndecodableImage, match="there is no such file"):
        data_uri(stored(None, "http://127.0.0.1:9/1.jpg"), 768)


OF_NO_USE = CANARY.encode() * 9  # as a colour profile


@pytest.mark.parametrize(
    "kind, options",
    [
        ("JPEG", {"exif": exif(), "comment": CANARY, "xmp": CANARY.encode(), "icc_profile": OF_NO_USE}),
        ("WEBP", {"exif": exif(), "xmp": CANARY.encode(), "icc_profile": OF_NO_USE}),
        ("TIFF", {"exif": exif(), "description": CANARY}),
        ("GIF", {"comment": CANARY}),
        ("PNG", {"exif": exif(), "pnginfo": TEXTS}),
    ],
)
@pytest.mark.parametrize("max_side", [768, 200])
def test_an_image_that_is_encoded_anew_carries_nothing_over(kind, options, max_side):
    dirty = make.content(PHOTOGRAPH, kind, **options)
    sent = clean_jpeg(stored(dirty), max_side)
    assert CANARY.encode() in dirty and CANARY.encode() not in sent and not opened(sent).getexif()
    assert {"comment", "exif", "xmp", "icc_profile", "photoshop"}.isdisjoint(opened(sent).info)


TURNS = {1: None, 3: PILImage.Transpose.ROTATE_180, 5: PILImage.Transpose.TRANSPOSE, 6: PILImage.Transpose.ROTATE_270}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("max_side, size", [(768, (500, 375)), (200, (200, 150))])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_images_are_upright_and_shrunk_to_the_longest_side_and_never_enlarged(kind, max_side, size, orientation):
    image = stored(make.content(PHOTOGRAPH, kind, exif=exif(orientation)))
    reference = PHOTOGRAPH.resize(size, PILImage.Resampling.LANCZOS)
    if TURNS[orientation] is not None:
        reference = reference.transpose(TURNS[orientation])
    sent = opened(clean_jpeg(image, max_side))
    assert sent.format == "JPEG"
    for found in (sent, decode(image, max_side)):
        assert found.size == reference.size
        assert np.abs(np.asarray(found, dtype=np.float32) - np.asarray(reference)).mean() < 6
    assert decode(make.stored(PILImage.new("RGB", (1000, 1))), 100).size == (100, 1)

"""Published images hold the same picture and nothing else."""

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
    opened = PILImage.open(io.BytesIO(found["bytes"]))
    assert set(opened.getexif()) <= {ExifTags.Base.Orientation}
    assert not opened.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    assert without_metadata({"bytes": found["bytes"], "path": None}) == {"bytes": found["bytes"], "path": None}
    return found["bytes"]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_keeps_its_coefficients(mode, progressive):
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
        assert PILImage.open(io.BytesIO(stripped)).getexif().get(0x0112) == (orientation if turned else None)
        assert decoded(stripped).size == ((16, 24) if orientation in range(5, 9) else (24, 16))
        assert decoded(stripped).info["icc_profile"] == ICC
    xmp, texts = XMP.format('tiff:Orientation="6"'), PngImagePlugin.PngInfo()  # orientation in XMP alone
    texts.add_itxt("XML:com.adobe.xmp", xmp)
    content = make.content(picture(), kind, **({"pnginfo": texts} if kind == "PNG" else {"xmp": xmp.encode()}))
    assert decoded(check(content)).size == decoded(content).size == (16, 24)


def test_jpeg_loses_thumbnails_second_pictures_and_what_follows():
    content = make.content(picture(), "MPO", save_all=True, append_images=[picture(seed=1)], exif=exif(6))
    assert PILImage.open(io.BytesIO(content)).n_frames == 2
    stripped = check(content + b"MotionPhoto " + CANARY.encode())
    assert PILImage.open(io.BytesIO(stripped)).format == "JPEG" and stripped.endswith(b"\xff\xd9")
    assert stripped.count(b"\xff\xd8\xff") == 1
    jfif = make.content(picture(), "JPEG")
    small = bytes([1, 1]) + CANARY.encode()[:3]
    with_thumbnail = jfif[:4] + struct.pack(">H", 16 + 3) + jfif[6:18] + small + jfif[20:]
    jfxx = b"\xff\xe0" + struct.pack(">H", 8 + len(CANARY)) + b"JFXX\0\x10" + CANARY.encode()
    assert check(with_thumbnail[:23] + jfxx + with_thumbnail[23:]) == jfif
    profile = make.content(picture(), "JPEG", icc_profile=ICC + bytes(150_000), exif=exif())  # which spans segments
    assert len(decoded(check(profile)).info["icc_profile"]) > 150_000
    check(jfif[:20] + CANARY.encode() + jfif[20:], ".png")  # bytes between segments, which Pillow skips


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "1", "I;16", "P"])
def test_png_keeps_its_pixels_and_loses_what_tells(mode):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", CANARY)
    texts.add_text("Comment", CANARY, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", XMP)
    texts.add(b"tIME", struct.pack(">HBBBBB", 2024, 1, 2, 3, 4, 5))
    texts.add(b"anNx", CANARY.encode())
    more = {"transparency": 2} if mode == "P" else {}
    stripped = check(make.content(picture(mode), "PNG", pnginfo=texts, exif=exif(8), **more) + CANARY.encode())
    assert b"tIME" not in stripped and b"anNx" not in stripped and b"eXIf" not in stripped


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_stays(kind):
    """The one that `datasets` reads."""
    frames = [picture(seed=seed) for seed in range(3)]
    more = {"lossless": True} if kind == "WEBP" else {}
    content = make.content(frames[0], kind, save_all=True, append_images=frames[1:], duration=40, exif=exif(), **more)
    before, after = (PILImage.open(io.BytesIO(c)) for c in (content, check(content)))
    assert before.n_frames == 3 and getattr(after, "n_frames", 1) == 1
    assert after.convert("RGB").tobytes() == frames[0].tobytes()


@pytest.mark.parametrize(
    ("kind", "modes", "more"),
    [
        ("GIF", ("P", "L", "1"), {"comment": CANARY}),
        ("BMP", ("RGB", "L", "P"), {}),
        ("TIFF", ("RGB", "RGBA", "L", "LA", "1", "P"), {"description": CANARY}),
        ("WEBP", ("RGB", "RGBA"), {"exif": exif(), "xmp": XMP.encode()}),
    ],
)
def test_other_formats_become_png(kind, modes, more):
    for mode in modes:
        check(make.content(picture(mode), kind, **more), path="C:\\Users\\ann\\x.old.dat")
    if kind == "GIF":
        check(make.content(picture("P"), kind, transparency=0, icc_profile=ICC, **more))
    if kind == "TIFF":
        assert decoded(check(make.content(picture(), kind, exif=exif(6)))).size == (16, 24)


def stored(content: bytes | None, path: str | None = None) -> dict:
    return {"bytes": content, "path": path}


NO_IMAGE = [(None, "null"), (stored(None), "null")]
NO_IMAGE += [(stored(None, "/nowhere/x.png"), r"its file cannot be read \(No such file or directory\)$")]
NO_IMAGE += [(stored(b"no image"), r"cannot be decoded \(no known image format\)$")]
NO_IMAGE += [(stored(make.content(picture(mode), "TIFF")), f"does not hold its mode {mode}") for mode in ("CMYK", "F")]
for file in (make.content(make.noise(0, 64), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF")):
    NO_IMAGE += [(stored(file[: int(len(file) * part)]), "cannot be decoded") for part in (0.02, 0.5, 0.98)]


@pytest.mark.parametrize(("image", "message"), NO_IMAGE)
def test_what_is_no_image_is_an_error_without_a_path(image, message):
    with pytest.raises(ValueError, match=message) as error:
        without_metadata(image)
    assert "/nowhere" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_bits_raise_nothing_else_and_publish_nothing(kind):
    """Any damage is either an error or a picture that is what `datasets` decodes."""
    rng, content = np.random.default_rng(0), make.content(picture(), kind, exif=exif(6), xmp=XMP.encode())
    for _ in range(200):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 2):
            damaged[place] = rng.integers(256)
        try:
            found = without_metadata({"bytes": bytes(damaged), "path": None})
        except ValueError:
            continue
        before, after = decoded(bytes(damaged)), decoded(found["bytes"])
        assert before.mode == after.mode and before.tobytes() == after.tobytes()
        assert CANARY.encode() not in found["bytes"]

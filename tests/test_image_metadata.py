"""Published images hold the same picture and nothing else."""

import io
import struct

import numpy as np
import pytest
from datasets import Image
from PIL import ExifTags, ImageCms, PngImagePlugin
from PIL import Image as PILImage

from g4i_hf.data.image_metadata import without_metadata

CANARY = "canary-of-ann"
XMP = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><r a="{CANARY}" {{}}/></rdf:RDF></x:xmpmeta>'
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(mode: str = "RGB", size: tuple[int, int] = (24, 16), seed: int = 0) -> PILImage.Image:
    """Smooth colours of which no two corners are alike."""
    x, y = np.meshgrid(np.linspace(0, 250, size[0]), np.linspace(0, 250, size[1]))
    image = PILImage.fromarray(np.stack([x, y, (x + y + 40 * seed) % 250], axis=-1).astype(np.uint8))
    if mode == "I;16":
        return PILImage.fromarray(np.arange(384, dtype=np.uint16).reshape(16, 24))
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        return ImageCms.applyTransform(image, to_lab)
    return image.quantize(7) if mode == "P" else image.convert("L" if mode in "FI" else "RGB").convert(mode)


def exif(orientation: int | None = None) -> bytes:
    """A position, an owner and a description."""
    tags = PILImage.Exif()
    tags[ExifTags.Base.ImageDescription] = tags[ExifTags.Base.Artist] = CANARY
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = CANARY.encode()
    tags.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (48.0, 8.0, 1.5), 3: "E", 4: (11.0, 34.0, 2.5), 29: CANARY})
    if orientation is not None:
        tags[ExifTags.Base.Orientation] = orientation
    return tags.tobytes()


def saved(image: PILImage.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def format_of(content: bytes) -> str:
    return PILImage.open(io.BytesIO(content)).format


def decoded(content: bytes) -> PILImage.Image:
    return Image().decode_example({"bytes": content, "path": None})


SUFFIXES = {"JPEG": ".dat", "MPO": ".dat", "PNG": ".png", "WEBP": ".png"}  # what is not encoded anew keeps its name


def check(content: bytes, suffix: str | None = None, path: str = "/home/ann/secret/x.dat") -> bytes:
    """The same picture under a bare name, without what gave it away."""
    found = without_metadata({"bytes": content, "path": path})
    name, suffix = path.replace("\\", "/").rsplit("/", 1)[-1], suffix or SUFFIXES[format_of(content)]
    assert found["path"] == name.rsplit(".", 1)[0] + suffix
    if suffix != ".dat":
        assert PILImage.registered_extensions()[suffix] == format_of(found["bytes"])
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
    content = saved(picture(mode), "JPEG", exif=exif(), comment=CANARY, xmp=XMP.encode(), **options)
    plain = saved(picture(mode), "JPEG", **options)
    assert CANARY.encode() in content
    assert check(content) == plain == check(plain)  # byte by byte what a camera without memory writes


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_and_colour_profile_stay(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    for orientation in (None, *range(1, 9)):
        stripped = check(saved(picture(), kind, exif=exif(orientation), icc_profile=ICC, **options))
        turned = kind == "JPEG" and orientation in range(2, 9)  # others are upright themselves
        assert PILImage.open(io.BytesIO(stripped)).getexif().get(0x0112) == (orientation if turned else None)
        assert decoded(stripped).size == ((16, 24) if orientation in range(5, 9) else (24, 16))
        assert decoded(stripped).info["icc_profile"] == ICC
    xmp, texts = XMP.format('tiff:Orientation="6"'), PngImagePlugin.PngInfo()  # orientation in XMP alone
    texts.add_itxt("XML:com.adobe.xmp", xmp)
    content = saved(picture(), kind, **({"pnginfo": texts} if kind == "PNG" else {"xmp": xmp.encode()}))
    assert decoded(check(content)).size == decoded(content).size == (16, 24)


def test_jpeg_loses_thumbnails_second_pictures_and_what_follows():
    content = saved(picture(), "MPO", save_all=True, append_images=[picture(seed=1)], exif=exif(6))
    assert PILImage.open(io.BytesIO(content)).n_frames == 2
    stripped = check(content + b"MotionPhoto " + CANARY.encode())
    assert PILImage.open(io.BytesIO(stripped)).format == "JPEG" and stripped.endswith(b"\xff\xd9")
    assert stripped.count(b"\xff\xd8\xff") == 1
    jfif = saved(picture(), "JPEG")
    small = bytes([1, 1]) + CANARY.encode()[:3]
    with_thumbnail = jfif[:4] + struct.pack(">H", 16 + 3) + jfif[6:18] + small + jfif[20:]
    jfxx = b"\xff\xe0" + struct.pack(">H", 8 + len(CANARY)) + b"JFXX\0\x10" + CANARY.encode()
    assert check(with_thumbnail[:23] + jfxx + with_thumbnail[23:]) == jfif
    profile = saved(picture(), "JPEG", icc_profile=ICC + bytes(150_000), exif=exif())  # which spans segments
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
    stripped = check(saved(picture(mode), "PNG", pnginfo=texts, exif=exif(8), **more) + CANARY.encode())
    assert b"tIME" not in stripped and b"anNx" not in stripped and b"eXIf" not in stripped


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_stays(kind):
    """The one that `datasets` reads."""
    frames = [picture(seed=seed) for seed in range(3)]
    more = {"lossless": True} if kind == "WEBP" else {}
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=40, exif=exif(), **more)
    before, after = (PILImage.open(io.BytesIO(c)) for c in (content, check(content, ".png")))
    assert before.n_frames == 3 and getattr(after, "n_frames", 1) == 1
    assert after.convert("RGB").tobytes() == frames[0].tobytes()


@pytest.mark.parametrize(
    ("kind", "modes"),
    [
        ("GIF", ("P", "L", "1")),
        ("BMP", ("RGB", "L", "P")),
        ("TIFF", ("RGB", "RGBA", "L", "LA", "1", "P")),
        ("WEBP", ("RGB", "RGBA")),
    ],
)
def test_other_formats_become_png(kind, modes):
    more = {"GIF": {"comment": CANARY}, "TIFF": {"description": CANARY}, "WEBP": {"exif": exif(), "xmp": XMP.encode()}}
    more = more.get(kind, {})
    for mode in modes:
        check(saved(picture(mode), kind, **more), ".png", "C:\\Users\\ann\\x.old.dat")
    if kind == "GIF":
        check(saved(picture("P"), kind, transparency=0, comment=CANARY, icc_profile=ICC), ".png")
    if kind == "TIFF":
        assert decoded(check(saved(picture(), kind, exif=exif(6)), ".png")).size == (16, 24)


@pytest.mark.parametrize("mode", ["CMYK", "F", "LAB"])
def test_what_png_does_not_hold_is_an_error(mode):
    with pytest.raises(ValueError, match=f"does not hold its mode {mode} without loss"):
        without_metadata({"bytes": saved(picture(mode), "TIFF"), "path": "x.tiff"})


def test_an_image_without_bytes_is_read_from_its_file(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "x.jpg").write_bytes(saved(picture(), "JPEG", exif=exif()))
    found = without_metadata({"bytes": None, "path": str(tmp_path / "ann" / "x.jpg")})
    assert found["path"] == "x.jpg" and CANARY.encode() not in found["bytes"]


NO_IMAGE = {
    "null": (None, "null"),
    "empty": ({"bytes": None, "path": None}, "null"),
    "gone": ({"bytes": None, "path": "/nowhere/x.png"}, r"its file cannot be read \(No such file or directory\)$"),
    "text": ({"bytes": b"no image", "path": "x.png"}, r"cannot be decoded \(no known image format\)$"),
}


@pytest.mark.parametrize("kind", NO_IMAGE)
def test_what_is_no_image_is_an_error_without_a_path(kind):
    image, message = NO_IMAGE[kind]
    with pytest.raises(ValueError, match=message) as error:
        without_metadata(image)
    assert "/nowhere" not in str(error.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_a_truncated_image_is_an_error(kind):
    noise = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    content = saved(noise, kind)
    for part in (0.02, 0.5, 0.98):
        with pytest.raises(ValueError, match="cannot be decoded|no image format"):
            without_metadata({"bytes": content[: int(len(content) * part)], "path": "x"})


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_bits_raise_nothing_else_and_publish_nothing(kind):
    """Any damage is either an error or a picture that is what `datasets` decodes."""
    rng, content = np.random.default_rng(0), saved(picture(), kind, exif=exif(6), xmp=XMP.encode())
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

"""Published images hold the same picture and nothing else."""

import io
import struct
import zlib

import numpy as np
import pytest
from datasets import Image, load_dataset
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
    return image.quantize(7) if mode == "P" else image.convert(mode)


def exif(orientation: int | None = None) -> bytes:
    """A position, an owner, a description and a thumbnail's worth of text."""
    tags = PILImage.Exif()
    tags[ExifTags.Base.ImageDescription] = CANARY
    tags[ExifTags.Base.Artist] = CANARY
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = CANARY.encode()
    tags.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (48.0, 8.0, 1.5), 3: "E", 4: (11.0, 34.0, 2.5), 29: CANARY})
    if orientation is not None:
        tags[ExifTags.Base.Orientation] = orientation
    return tags.tobytes()


def saved(image: PILImage.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(content: bytes) -> PILImage.Image:
    return Image().decode_example({"bytes": content, "path": None})


def check(content: bytes, suffix: str, path: str = "/home/ann/secret/x.dat") -> bytes:
    """The same picture under a bare name, without what gave it away."""
    found = without_metadata({"bytes": content, "path": path})
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    assert found["path"] == (name if suffix == "kept" else name.rsplit(".", 1)[0] + suffix)
    before, after = decoded(content), decoded(found["bytes"])
    assert (after.mode, after.size) == (before.mode, before.size)
    assert after.tobytes() == before.tobytes()
    assert after.convert("RGBA").tobytes() == before.convert("RGBA").tobytes()
    assert after.info.get("icc_profile") == before.info.get("icc_profile")
    for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
        assert CANARY.encode(encoding) not in found["bytes"]
    opened = PILImage.open(io.BytesIO(found["bytes"]))
    if suffix != ".tiff":  # whose structure is such tags
        assert set(opened.getexif()) <= {ExifTags.Base.Orientation}
    assert not opened.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    assert without_metadata({"bytes": found["bytes"], "path": None}) == {"bytes": found["bytes"], "path": None}
    return found["bytes"]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_keeps_its_coefficients(mode, progressive):
    options = {"progressive": progressive, "quality": 60, "dpi": (72, 72)}
    content = saved(picture(mode), "JPEG", exif=exif(), comment=CANARY, xmp=XMP.encode(), **options)
    assert CANARY.encode() in content and len(content) > len(check(content, "kept"))
    plain = saved(picture(mode), "JPEG", **options)
    assert check(content, "kept") == plain == check(plain, "kept")  # byte by byte what a camera without memory writes


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_keeps_its_effect(kind, orientation):
    options = {"lossless": True} if kind == "WEBP" else {}
    content = saved(picture(), kind, exif=exif(orientation), **options)
    stripped = check(content, "kept")
    turned = orientation in range(2, 9)
    assert PILImage.open(io.BytesIO(stripped)).getexif().get(0x0112) == (orientation if turned else None)
    assert decoded(stripped).size == ((16, 24) if turned and orientation > 4 else (24, 16))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_of_xmp_alone_keeps_its_effect(kind):
    xmp = XMP.format('tiff:Orientation="6"').encode()
    if kind == "PNG":
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", xmp.decode())
        content = saved(picture(), kind, pnginfo=texts)
    else:
        content = saved(picture(), kind, xmp=xmp)
    assert decoded(content).size == (16, 24)
    assert decoded(check(content, "kept")).size == (16, 24)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_colour_profile_stays(kind):
    content = saved(picture(), kind, icc_profile=ICC, exif=exif(3))
    assert decoded(check(content, "kept")).info["icc_profile"] == ICC


def test_large_colour_profile_spans_segments():
    content = saved(picture(), "JPEG", icc_profile=ICC + bytes(150_000), exif=exif())
    assert len(decoded(check(content, "kept")).info["icc_profile"]) > 150_000


def test_jpeg_loses_thumbnails_second_pictures_and_what_follows(tmp_path):
    buffer = io.BytesIO()
    picture().save(buffer, "MPO", save_all=True, append_images=[picture(seed=1)], exif=exif(6))
    content = buffer.getvalue()
    assert PILImage.open(io.BytesIO(content)).n_frames == 2
    stripped = check(content + b"MotionPhoto " + CANARY.encode(), "kept")
    assert PILImage.open(io.BytesIO(stripped)).format == "JPEG" and stripped.endswith(b"\xff\xd9")
    assert stripped.count(b"\xff\xd8\xff") == 1
    jfif = saved(picture(), "JPEG")
    assert jfif[2:4] == b"\xff\xe0"
    small = bytes([1, 1]) + CANARY.encode()[:3]
    with_thumbnail = jfif[:4] + struct.pack(">H", 16 + 3) + jfif[6:18] + small + jfif[20:]
    jfxx = b"\xff\xe0" + struct.pack(">H", 8 + len(CANARY)) + b"JFXX\0\x10" + CANARY.encode()
    assert check(with_thumbnail[:23] + jfxx + with_thumbnail[23:], "kept") == jfif


def test_png_keeps_what_shows_and_loses_what_tells():
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", CANARY)
    texts.add_text("Comment", CANARY, zip=True)
    texts.add_itxt("XML:com.adobe.xmp", XMP)
    texts.add(b"gAMA", struct.pack(">I", 45455))
    texts.add(b"tIME", struct.pack(">HBBBBB", 2024, 1, 2, 3, 4, 5))
    texts.add(b"anNx", CANARY.encode())
    for mode, more in (("RGB", {}), ("RGBA", {}), ("LA", {}), ("1", {}), ("I;16", {}), ("P", {"transparency": 2})):
        image = (
            PILImage.fromarray(np.arange(384, dtype=np.uint16).reshape(16, 24)) if mode == "I;16" else picture(mode)
        )
        content = saved(image, "PNG", pnginfo=texts, exif=exif(8), **more) + CANARY.encode()
        stripped = check(content, "kept")
        assert b"gAMA" in stripped and b"tIME" not in stripped and b"anNx" not in stripped
    profile = saved(picture(), "PNG", icc_profile=ICC)
    named = profile.replace(b"ICC Profile\0", CANARY.encode()[:11] + b"\0")
    start = named.index(b"iCCP")
    (length,) = struct.unpack_from(">I", named, start - 4)
    crc = struct.pack(">I", zlib.crc32(named[start : start + 4 + length]))
    named = named[: start + 4 + length] + crc + named[start + 8 + length :]
    assert b"canary" not in check(named, "kept")


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_keep_their_pictures(kind):
    frames = [picture(seed=seed) for seed in range(3)]
    more = {"lossless": True} if kind == "WEBP" else {}
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=40, exif=exif(), **more)
    before, after = (PILImage.open(io.BytesIO(c)) for c in (content, check(content, "kept")))
    assert after.n_frames == before.n_frames == 3
    for number in range(3):
        before.seek(number)
        after.seek(number)
        assert before.convert("RGBA").tobytes() == after.convert("RGBA").tobytes()
        assert before.info["duration"] == after.info["duration"]


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"lossless": True, "exact": True}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp(mode, options):
    image = picture(mode)
    if mode == "RGBA":
        image.putalpha(PILImage.linear_gradient("L").resize(image.size))
    content = saved(image, "WEBP", exif=exif(), xmp=XMP.encode(), **options)
    check(content + CANARY.encode(), "kept")
    check(saved(image, "WEBP", **options), "kept")


@pytest.mark.parametrize(
    "kind, mode, suffix",
    [
        *(("GIF", mode, ".png") for mode in ("P", "L", "1")),
        *(("BMP", mode, ".png") for mode in ("RGB", "L", "P")),
        *(("TIFF", mode, ".png") for mode in ("RGB", "RGBA", "L", "LA", "1", "P")),
        *(("TIFF", mode, ".tiff") for mode in ("CMYK", "F", "I", "LAB")),
    ],
)
def test_other_formats_become_png_or_a_plain_tiff(kind, mode, suffix):
    image = picture().convert("L").convert(mode) if mode in ("F", "I") else picture(mode if mode != "LAB" else "RGB")
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        image = ImageCms.applyTransform(image, to_lab)
    more = {"comment": CANARY} if kind == "GIF" else {"description": CANARY} if kind == "TIFF" else {}
    check(saved(image, kind, **more), suffix, "C:\\Users\\ann\\x.old.dat")


def test_a_transparent_gif_and_a_turned_tiff():
    image = picture("P")
    check(saved(image, "GIF", transparency=0, comment=CANARY, icc_profile=ICC), ".png")
    content = saved(picture(), "TIFF", exif=exif(6))
    assert decoded(check(content, ".png")).size == (16, 24)


def test_an_image_without_bytes_is_read_from_its_file(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / "x.jpg").write_bytes(saved(picture(), "JPEG", exif=exif()))
    found = without_metadata({"bytes": None, "path": str(tmp_path / "ann" / "x.jpg")})
    assert found["path"] == "x.jpg" and CANARY.encode() not in found["bytes"]
    assert without_metadata({"bytes": saved(picture(), "BMP"), "path": None})["path"] is None


def test_a_jpeg_with_bytes_between_its_segments_becomes_a_png():
    """Pillow skips them; what they are cannot be told."""
    content = saved(picture(), "JPEG")
    check(content[:20] + CANARY.encode() + content[20:], ".png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.98])
def test_a_truncated_image_is_an_error(kind, part):
    noise = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    content = saved(noise, kind)
    with pytest.raises(ValueError, match="cannot be decoded|no image format"):
        without_metadata({"bytes": content[: int(len(content) * part)], "path": "x"})


@pytest.mark.parametrize(
    "image, message",
    [
        (None, "null"),
        ({"bytes": None, "path": None}, "null"),
        ({"bytes": None, "path": "/nowhere/x.png"}, r"its file cannot be read \(No such file or directory\)$"),
        ({"bytes": b"no image", "path": "x.png"}, r"cannot be decoded \(no known image format\)$"),
        ({"bytes": b"", "path": "x.png"}, "no known image format"),
    ],
)
def test_what_is_no_image_is_an_error_without_a_path(image, message):
    with pytest.raises(ValueError, match=message) as error:
        without_metadata(image)
    assert "/nowhere" not in str(error.value)


def test_broken_bits_raise_nothing_else_and_publish_nothing():
    """Any damage is either an error or a picture that is what `datasets` decodes."""
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP"):
        content = saved(picture(), kind, exif=exif(6), xmp=XMP.encode())
        for _ in range(300):
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


def test_real_images():
    for row in (
        load_dataset("recipes/emoji_styles", split="test").cast_column("image", Image(decode=False)).select(range(50))
    ):
        check(row["image"]["bytes"], "kept", "x.webp")

"""The recipe of photographs made from stamps: what is left out, what shares a split, what the library reads."""

import io
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps

from g4i_hf import load_images

RECIPE = Path(__file__).parent.parent / "recipes" / "efficientnet_lite0"
BIRDS = ("crow", "duck", "heron", "lark", "owl", "swan", "tern", "wren", "kite", "rook")
FRUIT = ("apple", "banana", "cherry", "grapes", "kiwi", "lemon", "mango", "orange", "peach", "plum")


build = SimpleNamespace(**runpy.run_path(str(RECIPE / "build.py")))


def photograph(seed: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Noise over patches of colour, opaque within an ellipse."""
    rng = np.random.default_rng(seed)
    width, height = size
    patches = np.kron(rng.integers(0, 200, (4, 4, 3)), np.ones((height // 4, width // 4, 1)))
    pixels = (patches + rng.normal(0, 12, patches.shape)).clip(0, 255).astype(np.uint8)
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    inside = ((x / pixels.shape[1] - 0.5) ** 2 + (y / pixels.shape[0] - 0.5) ** 2) < 0.25
    return Image.fromarray(np.dstack([pixels, np.where(inside, 255, 0).astype(np.uint8)]), "RGBA")


def drawing(seed: int) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 255, (2, 2, 3))
    return Image.fromarray(np.kron(colours, np.ones((20, 20, 1))).astype(np.uint8)).convert("RGBA")


def stamp(folder: Path, name: str, picture: Image.Image, caption: str | None = "A thing.") -> None:
    path = folder / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(f"{caption}\nde.utf8=Ein Ding.\n", encoding="utf-8")


@pytest.fixture(scope="module")
def stamps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stamps")
    for seed, name in enumerate(BIRDS):
        stamp(folder, f"animals/birds/{name}", photograph(seed), f"A  {name}.")
    for seed, name in enumerate(FRUIT):
        stamp(folder, f"food/fruit/{name}", photograph(50 + seed), f"A “{name}”.")
    stamp(folder, "animals/birds/crow-2", photograph(100))
    stamp(folder, "animals/birds/Crow_flying", photograph(101))
    rng = np.random.default_rng(0)
    for other in ("mirrored", "nearly"):  # the plum, under names of their own
        pixels = np.asarray(photograph(50 + FRUIT.index("plum"))).astype(int)
        pixels[..., :3] += rng.integers(-2, 3, pixels[..., :3].shape)
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGBA")
        stamp(folder, f"food/fruit/{other}", ImageOps.mirror(picture) if other == "mirrored" else picture)
    # What is left out
    stamp(folder, "animals/birds/drawn", drawing(0))
    stamp(folder, "animals/birds/cartoon/duck", photograph(102))
    stamp(folder, "animals/birds/owl_mirror", ImageOps.mirror(photograph(4)), None)
    stamp(folder, "animals/birds/copy", photograph(2))
    stamp(folder, "animals/birds/tiny", photograph(103, (16, 12)))
    stamp(folder, "clothes/hat", photograph(104))
    stamp(folder, "sports/ball", photograph(105))
    return folder


@pytest.fixture(scope="module")
def built(stamps, tmp_path_factory):
    """(folder, what was said, image_id -> row)"""
    folder = tmp_path_factory.mktemp("built")
    said = build.build(stamps, folder)
    splits = load_images(folder)
    return folder, said, {row["image_id"]: row | {"split": name} for name, rows in splits.items() for row in rows}


def test_what_is_no_photograph_of_its_own_with_a_caption_is_left_out(built):
    _, said, rows = built
    assert said["left_out"] == {
        "drawn": 1,
        "of no class": 2,  # the cartoon and the hat
        "without a caption (mirror images)": 1,
        "equal to another": 1,
        "too small": 1,
        "of a class with too few things": 1,
    }
    assert len(rows) == len(BIRDS) + len(FRUIT) + 4
    assert "animals/birds/copy" in rows and "animals/birds/heron" not in rows  # of equal ones the first by name


def test_the_library_reads_images_classes_and_captions(built):
    folder, said, rows = built
    assert load_images(folder)["train"].features["label"].names == ["bird", "fruit"]
    assert sum(sum(counts.values()) for counts in said["images"].values()) == len(rows)
    owl = rows["animals/birds/owl"]
    assert (owl["caption"], owl["label"]) == ("A owl.", 0) and rows["food/fruit/lemon"]["caption"] == "A “lemon”."
    # A stamp lies on white within the centre crop, and fills it
    pixels = np.asarray(Image.open(io.BytesIO(owl["image"]["bytes"])))
    assert pixels.shape[0] == pixels.shape[1] and pixels.shape[2] == 3
    inked, side = np.argwhere((pixels < 255).any(-1)), pixels.shape[0]
    margin = (1 - build.SHOWN) / 2 * side
    assert inked.min() >= margin - 1 and inked.max() <= side - margin + 1
    assert inked[:, 1].max() - inked[:, 1].min() > 0.8 * build.SHOWN * side


def test_classes_are_spread_over_splits_and_pictures_of_one_thing_share_one(built):
    _, said, rows = built
    for label, count in (("bird", len(BIRDS) + 2), ("fruit", len(FRUIT) + 2)):
        for split, share in build.SPLITS.items():
            assert abs(said["images"][split][label] - share * count) <= 1.5, (label, split)
    for names in (("animals/birds", "crow", "crow-2", "Crow_flying"), ("food/fruit", "plum", "mirrored", "nearly")):
        assert len({rows[f"{names[0]}/{name}"]["split"] for name in names[1:]}) == 1


def test_things_and_classes_are_told_by_name():
    same = [("cats/lion", "cats/lion-2"), ("fruit/Plum2", "fruit/plum"), ("euro/coins/001", "euro/coins/200")]
    others = [("euro/coins/001", "us/coins/001"), ("cents/001penny", "cents/010dime"), ("cats/lion", "cats/tiger")]
    assert [build.thing_of(one) == build.thing_of(other) for one, other in same + others] == [True] * 3 + [False] * 3
    classes = {"household/kettle": "household", "household/tools/saw": "tool", "animals/mammals/pig": "hoofed animal"}
    classes |= {"animals/mammals/pigeon": "mammal", "animals/mammals/bears/toys/edward_bear": None}
    assert {name: build.class_of(name) for name in classes} == classes

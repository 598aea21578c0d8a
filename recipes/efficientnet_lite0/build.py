"""Makes a data set of photographs with captions from the stamps of the drawing program Tux Paint.

    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb tuxpaint
    python recipes/efficientnet_lite0/build.py --stamps tuxpaint/usr/share/tuxpaint/stamps

A stamp is a picture with a transparent background; the first line of the text file beside it says in English what it
shows. Folders become classes, see `CLASSES`. Stamps that are drawn are left out as far as they can be told from
photographs, and so are copies. The split of a stamp follows from its name: those named after the same thing
(`lion`, `lion-2`) are in one split, as are those that look alike. The same package gives the same files.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

SPLITS = {"train": 0.5, "validation": 0.2, "test": 0.3}
# Class -> folders, or files without their suffix, with all that is below them. The longest match counts.
CLASSES = {
    "bird": ("animals/birds",),
    "coin": ("symbols/money",),
    "fish": ("animals/fish", "animals/shellfish"),
    "flower": ("plants/flowers",),
    "fruit": ("food/fruit", "food/nuts"),
    "hoofed animal": (
        *(f"animals/mammals/{name}" for name in ("bovines", "camel", "deer", "equines", "giraffe", "hippopotamus")),
        *(f"animals/mammals/{name}" for name in ("pig", "pig_golden", "pig_golden2", "rhino_black", "wildboar")),
    ),
    "household": ("household",),
    "insect": ("animals/insects",),
    "mammal": ("animals/mammals", "animals/marsupials"),
    "musical instrument": ("hobbies/music",),
    "plant": ("plants",),
    "road sign": ("town/roadsigns",),
    "space": ("space",),
    "sport": ("sports",),
    "tool": ("household/tools", "household/arttools"),
    "vegetable": ("food/vegetables", "food/spices"),
    "vehicle": ("vehicles", "military/vehicles"),
}
NO_PHOTOGRAPHS = {"cartoon", "toys"}  # folders of drawings, and of toys that are none of the class
DRAWN = ("vehicles/iso_", "vehicles/emergency/sedan_police")  # drawings whose pixels look like those of photographs
MIN_THINGS = 6  # a class with fewer different things is left out
MIN_SIDE = 32  # pixels: the longer side of the smallest picture that is used
MAX_FLAT = 0.5  # of the inner pixels of a photograph; see flat_share
FLAT = 4  # of 255: how far a pixel of a plane or a smooth gradient lies from its four neighbours' mean, times four
OPAQUE = 250  # of 255
SIDE = 224  # pixels of the largest picture that is written
SHOWN = 0.875  # share of the side that evaluation's centre crop keeps: the stamp fits into it
THUMB, WHITE = 16, 245  # pixels of a thumbnail, and from which value of 255 on one is background
ALIKE = 16  # of 255: mean difference of two thumbnails that show the same


def flat_share(stamp: Image.Image) -> float:
    """
    The share of opaque pixels that differ from the mean of their neighbours by hardly anything, 0 to 1: high in
    drawings, which are made of planes and gradients, low in photographs, which are noisy. 1 where nothing is opaque.
    """
    import numpy as np

    pixels = np.asarray(stamp.convert("RGBA"), dtype=int)
    colours, opaque = pixels[..., :3], pixels[..., 3] >= OPAQUE
    middle, around = (slice(1, -1),) * 2, []
    for axis in range(2):
        for shift in (slice(None, -2), slice(2, None)):
            around.append(tuple(shift if axis == side else slice(1, -1) for side in range(2)))
    inner = opaque[middle].copy()
    for neighbour in around:
        inner &= opaque[neighbour]
    curvature = abs(4 * colours[middle] - sum(colours[neighbour] for neighbour in around)).max(axis=-1)
    return float((curvature[inner] <= FLAT).mean()) if inner.any() else 1.0


def class_of(name: str) -> str | None:
    """The class of a stamp, named by its path without suffix; None for one of none."""
    if NO_PHOTOGRAPHS & set(name.split("/")) or name.startswith(DRAWN):
        return None
    found = [(len(place), label) for label, places in CLASSES.items() for place in places if is_below(name, place)]
    return max(found)[1] if found else None


def is_below(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}/")


def thing_of(name: str) -> str:
    """
    What a stamp is named after: its first word without digits, or its folder where only digits are left. The stamps of
    a thing share a split: `lion` and `lion-2`, `gnu-baby` and `gnu-sitting`, the coins `001` to `200` of one currency.
    """
    folder, _, stem = name.rpartition("/")
    words = [word for word in re.split(r"[^a-z]+", stem.lower()) if word]
    return f"{folder}/{words[0]}" if words else folder


def caption_of(path: Path) -> str | None:
    """The first line of the text file beside a picture; None where there is none."""
    text = path.with_suffix(".txt")
    if not text.is_file():
        return None
    first = text.read_text(encoding="utf-8").partition("\n")[0]
    return " ".join(first.split()) or None


def on_white(stamp: Image.Image) -> Image.Image:
    """The stamp in the middle of a white square with a margin, made smaller where it is larger than `SIDE`."""
    from PIL import Image

    stamp = stamp.convert("RGBA")
    side = round(max(stamp.size) / SHOWN)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(stamp, ((side - stamp.width) // 2, (side - stamp.height) // 2))
    picture = square.convert("RGB")
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS) if side > SIDE else picture


def thumbnails(picture: Image.Image) -> np.ndarray:
    """Picture and mirror image, much smaller: (2, 16, 16, 3)."""
    import numpy as np
    from PIL import Image

    small = np.asarray(picture.resize((THUMB, THUMB), Image.Resampling.BOX), dtype=int)
    return np.stack([small, small[:, ::-1]])


def read_stamps(folder: Path) -> tuple[list[dict], Counter]:
    """The rows of the data set in the order of their names, and how many stamps were left out for which reason."""
    from PIL import Image

    rows, left_out, seen = [], Counter(), set()
    for path in sorted(folder.rglob("*.png")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        label, caption = class_of(name), caption_of(path)
        with Image.open(path) as stamp:
            stamp.load()
        if label is None:
            left_out["of no class"] += 1
        elif caption is None:
            left_out["without a caption (mirror images)"] += 1
        elif max(stamp.size) < MIN_SIDE:
            left_out["too small"] += 1
        elif flat_share(stamp) > MAX_FLAT:
            left_out["drawn"] += 1
        else:
            picture = on_white(stamp)
            content = hashlib.sha256(picture.tobytes()).hexdigest()
            if content in seen:
                left_out["equal to another"] += 1
                continue
            seen.add(content)
            row = {"picture": picture, "label": label, "image_id": name, "caption": caption}
            rows.append(row | {"thing": thing_of(name), "thumbnails": thumbnails(picture)})
    return rows, left_out


def join_alike(rows: list[dict]) -> None:
    """
    Gives stamps that look alike, or like the other's mirror image, one thing, and all stamps of their things with
    them. How alike two are is the mean difference of their thumbnails where not both are white.
    """
    import numpy as np

    seen = np.stack([row["thumbnails"] for row in rows])  # (N, 2, 16, 16, 3)
    inked = (seen < WHITE).any(-1)
    for place, row in enumerate(rows):
        inks = inked[place, :1] | inked[:place]
        differences = (abs(seen[place, :1] - seen[:place]).mean(-1) * inks).sum((2, 3)) / inks.sum((2, 3))
        for other in np.flatnonzero(differences.min(axis=1, initial=255) <= ALIKE):
            joined = {row["thing"], rows[other]["thing"]}
            for either in rows:
                either["thing"] = min(joined) if either["thing"] in joined else either["thing"]


def assign_splits(rows: list[dict]) -> dict[str, str]:
    """
    The split of every thing. In each class, things with most stamps first and then by a hash of their name, each goes
    to the split that lacks most of its share.
    """
    splits = {}
    for label in sorted({row["label"] for row in rows}):
        sizes = Counter(row["thing"] for row in rows if row["label"] == label)
        filled = dict.fromkeys(SPLITS, 0)
        for thing in sorted(sizes, key=lambda thing: (-sizes[thing], hashlib.sha256(thing.encode()).hexdigest())):
            lacking = {split: share * sizes.total() - filled[split] for split, share in SPLITS.items()}
            splits[thing] = max(SPLITS, key=lacking.get)
            filled[splits[thing]] += sizes[thing]
    return splits


def build(stamps: Path, folder: Path) -> dict:
    """
    Writes one Parquet file a split: image, label, image_id, caption.

    Args:
        stamps: folder of the stamps, `usr/share/tuxpaint/stamps` of the package.
        folder: where the files go.

    Returns:
        Images a split and class, and how many stamps were left out for which reason.

    Raises:
        FileNotFoundError: when the folder holds no stamps.
    """
    from datasets import ClassLabel, Dataset, Features, Image, Value

    rows, left_out = read_stamps(stamps)
    if not rows:
        raise FileNotFoundError(f"{stamps} holds no stamps: give usr/share/tuxpaint/stamps of the package.")
    join_alike(rows)
    things = Counter(label for _, label in {(row["thing"], row["label"]) for row in rows})
    names = sorted(label for label in things if things[label] >= MIN_THINGS)
    left_out["of a class with too few things"] = sum(row["label"] not in names for row in rows)
    rows = [row for row in rows if row["label"] in names]
    splits = assign_splits(rows)
    text = Value("string")
    features = Features(image=Image(), label=ClassLabel(names=names), image_id=text, caption=text)
    folder.mkdir(parents=True, exist_ok=True)
    counts = {}
    for split in SPLITS:
        chosen = [row for row in rows if splits[row["thing"]] == split]
        table = [
            {name: row[name] for name in ("label", "image_id", "caption")} | {"image": png(row)} for row in chosen
        ]
        Dataset.from_list(table, features=features).to_parquet(folder / f"{split}.parquet")
        counts[split] = dict(sorted(Counter(row["label"] for row in chosen).items()))
    return {"images": counts, "left_out": dict(left_out)}


def png(row: dict) -> dict:
    output = io.BytesIO()
    row["picture"].save(output, "PNG", optimize=True)
    return {"bytes": output.getvalue(), "path": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stamps", type=Path, default=Path("/usr/share/tuxpaint/stamps"), help="folder of the stamps")
    parser.add_argument(
        "--output_dir", type=Path, default=Path("runs/stamps/tuxpaint-stamps"), help="folder of Parquet files"
    )
    args = parser.parse_args()
    try:
        made = build(args.stamps, args.output_dir)
    except FileNotFoundError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()

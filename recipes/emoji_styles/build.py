"""Rebuilds Emoji Styles from public npm packages, and compares the result with the Parquet files in `data/`.

    python recipes/emoji_styles/build.py --output_dir emoji_styles --check

Needs `npm` on the path and `pip install datasets pillow resvg-py`. The published data came out of the package versions
in `VERSIONS`; with others (`--versions emojibase-data=16.0.3`) the split of an emoji can change, not only its drawing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import random
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

VERSIONS = {
    "@iconify-json/noto": "1.2.9",
    "@iconify-json/noto-v1": "1.2.5",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/twemoji": "1.2.5",
    "emojibase-data": "17.0.0",
}
*TRAIN_STYLES, TEST_STYLE = STYLES = ("noto", "noto-v1", "fluent-emoji-flat", "twemoji")
SPLITS = ("train", "validation", "test", "test_novel")
MIN_CONCEPTS = 10  # a subgroup with fewer emoji is not a class
NOVEL_SHARE, VALIDATION_SHARE, SEED = 0.15, 0.1, 0
LIBRARIES = ("datasets", "pillow", "pyarrow", "resvg_py")  # what the encoded bytes depend on
SIZE = 48  # pixels
MAX_MEAN_DIFFERENCE = 0.5  # of 255: what --check allows
GRID = ("1f989", "1f41d", "1f347", "1f382", "1f3b8", "1f682", "1f3f0", "1f622", "1f575", "26bd")
PUBLISHED = Path(__file__).parent / "data"


def fetch(package: str, version: str, folder: Path) -> Path:
    """Downloads one package with `npm pack`, or takes it from npm's own cache, and returns the archive."""
    command = ["npm", "pack", "--silent", "--prefer-offline", "--pack-destination", str(folder)]
    subprocess.run([*command, f"{package}@{version}"], check=True, stdout=subprocess.DEVNULL)
    return folder / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"


def read_json(archive: Path, member: str) -> dict | list:
    """Reads one JSON file of an npm archive without unpacking it."""
    with tarfile.open(archive) as files:
        return json.load(files.extractfile(f"package/{member}"))


def caption(emoji: dict) -> str:
    """`name: tag, tag`, without the tags that only repeat a part of the name."""
    name = emoji["label"]
    tags = [tag for tag in emoji.get("tags", []) if tag.lower() not in name.lower()]
    return f"{name}: {', '.join(tags)}" if tags else name


def read_concepts(archive: Path) -> dict[str, dict]:
    """The emoji of every class, in the order of emojibase: `{code points: {"class", "name", "caption"}}`."""
    emojis, groups = read_json(archive, "en/data.json"), read_json(archive, "meta/groups.json")
    emojis = [emoji for emoji in emojis if groups["groups"].get(str(emoji.get("group")), "flags") != "flags"]
    sizes = Counter(emoji["subgroup"] for emoji in emojis)
    return {
        emoji["hexcode"].lower().replace("-fe0f", ""): {
            "class": groups["subgroups"][str(emoji["subgroup"])],
            "name": emoji["label"],
            "caption": caption(emoji),
        }
        for emoji in emojis
        if sizes[emoji["subgroup"]] >= MIN_CONCEPTS
    }


def read_drawings(archive: Path, concepts: dict[str, dict]) -> dict[str, str]:
    """The SVG of every concept that the style draws, found by code points, or by name where the package lacks them."""
    icons, icon_names = read_json(archive, "icons.json"), read_json(archive, "chars.json")
    if not icon_names:  # noto-v1
        for key, concept in concepts.items():
            name = re.sub("[’']", "", concept["name"].lower())
            icon_names[key] = re.sub("[^a-z0-9#*]+", "-", name).strip("-")
    drawings = {}
    for key in concepts:
        if icon := icons["icons"].get(icon_names.get(key)):
            box = f"0 0 {icon.get('width', icons['width'])} {icon.get('height', icons['height'])}"
            head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" width="{SIZE}" height="{SIZE}">'
            drawings[key] = f"{head}{icon['body']}</svg>"
    return drawings


def assign_splits(concepts: dict[str, dict], drawings: dict[str, dict]) -> list[tuple[str, str, str]]:
    """`(split, style, concept)` of every image: whole concepts are held out first, then images for validation."""
    generator = random.Random(SEED)
    novel = {key for key in concepts if generator.random() < NOVEL_SHARE}
    images = [(style, key) for style in TRAIN_STYLES for key in drawings[style] if key not in novel]
    rows = [("validation" if generator.random() < VALIDATION_SHARE else "train", *image) for image in images]
    return rows + [("test_novel" if key in novel else "test", TEST_STYLE, key) for key in drawings[TEST_STYLE]]


def render(svg: str) -> bytes:
    """Draws on white and returns a lossless WebP."""
    import resvg_py
    from PIL import Image

    png = resvg_py.svg_to_bytes(svg_string=svg, background="white", skip_system_fonts=True)
    output = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(output, "WEBP", lossless=True, method=6)
    return output.getvalue()


def build(archives: dict[str, Path], folder: Path) -> None:
    """Renders all images, shuffles each split once with the seed, and writes the four Parquet files."""
    from datasets import ClassLabel, Dataset, Features, Image, Value
    from tqdm import tqdm

    concepts = read_concepts(archives["emojibase-data"])
    drawings = {style: read_drawings(archives[f"@iconify-json/{style}"], concepts) for style in STYLES}
    text = Value("string")
    classes = ClassLabel(names=sorted({concept["class"] for concept in concepts.values()}))
    columns = {"image": Image(), "label": classes, "image_id": text, "caption": text, "style": text, "concept": text}
    rows = {split: [] for split in SPLITS}
    for split, style, key in tqdm(assign_splits(concepts, drawings), desc="drawing", unit="image"):
        image = {"bytes": render(drawings[style][key]), "path": None}
        values = (image, concepts[key]["class"], f"{style}/{key}", concepts[key]["caption"], style, key)
        rows[split].append(dict(zip(columns, values, strict=True)))
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        dataset = Dataset.from_list(rows[split], features=Features(columns)).shuffle(seed=SEED)
        dataset.to_parquet(folder / f"{split}.parquet")


def read_rows(folder: Path) -> dict[str, list[dict]]:
    """The rows of the four Parquet files, with class names as `label`, and images beside their encoded `bytes`."""
    import pyarrow.parquet
    from PIL import Image

    rows = {}
    for split in SPLITS:
        table = pyarrow.parquet.read_table(folder / f"{split}.parquet")
        names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        rows[split] = table.to_pylist()
        for row in rows[split]:
            row |= {"label": names[row["label"]], "bytes": row["image"]["bytes"]}
            row["image"] = Image.open(io.BytesIO(row["bytes"])).convert("RGB")
    return rows


def compare(rebuilt: Path, published: Path) -> dict:
    """Compares two folders of Parquet: shares of equal rows (by split and `image_id`), pixel differences of 255."""
    import numpy

    ours, theirs = (
        {(split, row["image_id"]): row for split, rows in read_rows(folder).items() for row in rows}
        for folder in (rebuilt, published)
    )
    pairs = [(ours[key], theirs[key]) for key in theirs if key in ours]
    count = max(len(ours), len(theirs))
    summary = {"rows": count, "same_split_and_image_id": len(pairs) / count, "same_order": list(ours) == list(theirs)}
    for column in ("label", "caption", "style", "concept", "bytes"):
        summary[f"same_{column}"] = sum(a[column] == b[column] for a, b in pairs) / count
    differences = numpy.array([abs(numpy.asarray(a["image"], "int16") - b["image"]) for a, b in pairs] or 255)
    summary |= {"max_pixel_difference": int(differences.max()), "mean_pixel_difference": float(differences.mean())}
    files = [[(folder / f"{split}.parquet").read_bytes() for split in SPLITS] for folder in (rebuilt, published)]
    summary["identical_files"] = sum(a == b for a, b in zip(*files, strict=True))
    summary["versions"] = {name: importlib.metadata.version(name) for name in LIBRARIES}
    exact = all(summary[f"same_{column}"] == 1 for column in ("split_and_image_id", "label", "caption"))
    return summary | {"passed": exact and summary["mean_pixel_difference"] <= MAX_MEAN_DIFFERENCE}


def draw_grid(folder: Path, path: Path) -> None:
    """Saves a picture of ten concepts in the four styles, each row with its class and caption below it."""
    from PIL import Image, ImageDraw, ImageFont

    drawn = {row["image_id"]: row for rows in read_rows(folder).values() for row in rows}
    tile, gap, height, width, top = 2 * SIZE, 12, 150, 480, 40
    fonts = ImageFont.load_default(15), ImageFont.load_default(13)
    picture = Image.new("RGB", (2 * width, top + (len(GRID) + 1) // 2 * height), "white")
    draw = ImageDraw.Draw(picture)
    for number, key in enumerate(GRID):
        left, upper = gap + number % 2 * width, top + number // 2 * height
        for column, style in enumerate(STYLES):
            x = left + column * (tile + gap)
            if number < 2:
                draw.text((x + tile / 2, 18), style, "black", fonts[0], anchor="mm")
            image = drawn[f"{style}/{key}"]["image"]
            picture.paste(image.resize((tile, tile), Image.Resampling.BICUBIC), (x, upper))
        row = drawn[f"{TEST_STYLE}/{key}"]
        draw.text((left, upper + tile + 6), row["label"], "black", fonts[0])
        draw.text((left, upper + tile + 25), row["caption"], "#444444", fonts[1])
    picture.quantize(128).save(path, optimize=True)


def fill_card(folder: Path, card: Path, summary: dict | None) -> None:
    """Writes the counts of the data, and the last comparison if there was one, between the markers of the card."""
    rows = read_rows(folder)
    known = {column: {row[column] for row in rows["train"]} for column in ("caption", "bytes")}
    counts = {split: Counter(row["label"] for row in rows[split]) for split in SPLITS}
    unique = {"classes": "label", "styles": "style", "concepts": "concept", "captions": "caption"}
    tables = {
        "splits": [["split", "images", *unique, "images with a caption of `train`", "images equal to one of `train`"]],
        "classes": [["class", *SPLITS]] + [[c, *(counts[s][c] for s in SPLITS)] for c in sorted(counts["train"])],
    }
    for split in SPLITS:
        numbers = [len(rows[split]), *(len({row[column] for row in rows[split]}) for column in unique.values())]
        numbers += [sum(row[column] in known[column] for row in rows[split]) for column in known]
        tables["splits"].append([f"`{split}`", *(f"{number:,}" for number in numbers)])
    blocks = {"check": ["```json", json.dumps(summary, indent=2), "```"]} if summary else {}
    for name, (head, *body) in tables.items():
        blocks[name] = [f"| {' | '.join(map(str, line))} |" for line in (head, ["---"] * len(head), *body)]
    text = card.read_text(encoding="utf-8")
    for name, lines in blocks.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        text = "\n".join([text.split(start)[0] + start, *lines, end + text.split(end)[1]])
    card.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, help="rebuild, and write the Parquet files to its folder `data`")
    parser.add_argument("--check", action="store_true", help="rebuild, and compare with the published files")
    parser.add_argument("--grid", type=Path, help="save a picture of the published data to this path")
    parser.add_argument("--card", type=Path, help="fill in the numbers of this card")
    parser.add_argument("--versions", nargs="+", default=[], metavar="PACKAGE=VERSION", help="of the npm packages")
    args = parser.parse_args()
    versions = VERSIONS | dict(item.rpartition("=")[::2] for item in args.versions)
    if unknown := versions.keys() - VERSIONS.keys():
        parser.error(f"--versions: unknown package {', '.join(unknown)}; the packages are {', '.join(VERSIONS)}")
    summary = None
    with tempfile.TemporaryDirectory() as scratch:
        rebuilt = Path(scratch) / "data"
        if args.output_dir or args.check:
            build({package: fetch(package, version, Path(scratch)) for package, version in versions.items()}, rebuilt)
        if args.check:
            summary = compare(rebuilt, PUBLISHED)
            print(json.dumps(summary, indent=2))
        if args.output_dir:
            shutil.copytree(rebuilt, args.output_dir / "data", dirs_exist_ok=True)
    if args.grid:
        draw_grid(PUBLISHED, args.grid)
    if args.card:
        fill_card(PUBLISHED, args.card, summary)
    return 1 if summary and not summary["passed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())

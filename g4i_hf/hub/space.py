"""A Space: a Gradio app of a released student, with everything that it shows in one folder."""

import json
import logging
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard, SpaceCard, SpaceCardData
from PIL import Image

from .. import __version__, columns
from ..cli import parse_options
from ..data.images import open_image, to_rgb
from ..data.loading import class_names, load_data, source_of
from ..data.texts import Texts
from ..embedding import with_text_embeds
from ..evaluation.predict import captions_of
from ..files import replacing
from ..modeling import AlignedImageClassificationConfig
from ..modeling.student import own_module
from ..options import OPTIONS_OF, aligns
from ..training.lineage import is_hub_id, read_lineage
from ..training.run_folder import OPTIONS_FILE, read_options
from ..zero_shot.checkpoint import ALIGNED, TEXT_ENCODER_FILE, TextSide
from .card import TEMPLATES, code
from .privacy import bare_name
from .push import check_replaceable, write_manifest

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent.parent
APP = Path(__file__).with_name("space_app.py")
CODE: tuple[str, ...] = ("__init__.py", "columns.py", "names.py", "extras.py", "files.py")
CODE += ("data", "embedding", "modeling", "options", "zero_shot")
# What the code imports. The versions are those that it runs with here: an app is not made anew with every release
REQUIREMENTS = (
    *("accelerate", "datasets", "gradio", "huggingface_hub", "numpy", "pandas", "pillow", "psutil", "pyarrow"),
    *("pyyaml", "safetensors", "sentence-transformers", "timm", "torch", "torchvision", "transformers"),
)
NAMES = 8  # class names that the box for names holds at first
MOST_CAPTIONS = 20_000
PICTURES = 12
LONGEST_SIDE = 512  # pixels of a picture in the gallery


def build_space(
    run: str | Path,
    student_dir: str | Path,
    output_dir: str | Path,
    *,
    repo_id: str | None = None,
    replace: bool = False,
) -> Path:
    """
    Writes a Gradio app that runs as it is, with `python <output_dir>/app.py` or as a Space: the aligned model, the
    code that the app needs, a dozen images of the splits that were not trained on, and up to 20,000 captions of the
    training data with their embeddings.

    Args:
        run: run folder; images and captions are those of its data.
        student_dir: its released student, with `aligned/`.
        output_dir: where the app goes; an earlier one is replaced.
        repo_id: the student's Hub id, for title and links.
        replace: also an app that was changed by hand.

    Raises:
        ImportError: without gradio, whose version the Space names.
        ValueError: for a baseline or a student without `aligned/`, when the data has no captions, or when `output_dir`
            holds something else than an app.
    """
    run, student_dir, output_dir = Path(run), Path(student_dir), Path(output_dir)
    check_replaceable(output_dir, "space", replace)
    _check(run, student_dir)
    versions = _versions()
    splits, id2label, train_split = open_data(run)
    with replacing(output_dir) as staging:
        shutil.copytree(student_dir / ALIGNED, staging / "model")
        _copy_code(staging)
        num_captions = write_captions(splits[train_split], staging / "captions.parquet")
        gallery, is_new = write_gallery(splits, id2label, train_split, staging / "gallery")
        settings = {
            "title": repo_id.split("/")[-1] if repo_id else "Pictures and captions",
            "gallery": gallery,
            "gallery_is_new": is_new,
            # One a line: a name may hold commas, but no line breaks
            "names": list(dict.fromkeys(" ".join(each["label"].split()) for each in gallery if each["label"]))[:NAMES],
        }
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        (staging / "space.json").write_text(text + "\n", encoding="utf-8")
        (staging / "requirements.txt").write_text("".join(f"{name}=={versions[name]}\n" for name in REQUIREMENTS))
        _card(run, student_dir, repo_id, settings, num_captions, versions["gradio"]).save(staging / "README.md")
        write_manifest(staging)
    return output_dir


def _check(run: Path, student_dir: Path) -> None:
    if aligns(read_options(run)) is False:
        raise ValueError(f"{run} is a baseline, and knows no text. Make the Space of a run with align_weight above 0.")
    if not (student_dir / ALIGNED / "config.json").is_file():
        raise ValueError(
            f"The student of {run} has no {ALIGNED}/, which a Space needs. Release the student with --aligned true, "
            "and one with adapters with --lora merged."
        )
    module = own_module(AlignedImageClassificationConfig.from_pretrained(student_dir / ALIGNED).student_config)
    if module is not None:
        raise ValueError(f"{run} needs the module {module}, which a Space does not have: leave --space out.")
    side = _text_side(student_dir)
    if not _is_found(side):
        encoder = f"the folder {side.text_encoder!r}" if side.text_encoder else "not known"
        said = "The text encoder of %s is %s, no Hub id: in a Space the box for names says that it cannot be loaded."
        logger.warning(said, run, encoder)


def _text_side(student_dir: Path) -> TextSide:
    path = student_dir / ALIGNED / TEXT_ENCODER_FILE
    return TextSide.from_record(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else TextSide()


def _is_found(side: TextSide) -> bool:
    """Whether a Space can load the text encoder, by its Hub id."""
    return side.text_encoder is not None and not side.text_encoder_is_folder


def _copy_code(folder: Path) -> None:
    shutil.copyfile(APP, folder / "app.py")
    (folder / PACKAGE.name).mkdir()
    for name in CODE:
        source, target = PACKAGE / name, folder / PACKAGE.name / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=lambda _, names: [n for n in names if not n.endswith(".py")])
        else:
            shutil.copyfile(source, target)


def _versions() -> dict[str, str]:
    """ImportError where something is missing, which can only be gradio."""
    try:
        return {name: version(name).split("+")[0] for name in REQUIREMENTS}  # 2.9.0+cpu is on no index
    except PackageNotFoundError as error:
        raise ImportError(
            f"A Space needs {error.name}, to name its version: pip install -e '.[space]' in a clone of g4i_hf."
        ) from error


def _card(
    run: Path, student_dir: Path, repo_id: str | None, settings: dict, num_captions: int, gradio: str
) -> SpaceCard:
    side, sources = _text_side(student_dir), read_lineage(run).get("sources") or []
    student = ModelCard.load(student_dir / "README.md").data if (student_dir / "README.md").is_file() else None
    ids = [each["id"] for each in sources if is_hub_id(each.get("id") or "")]
    links = [f"[{name}](https://huggingface.co/datasets/{name})" for name in ids]
    names = [code(bare_name(each["name"])) for each in sources if each.get("name") and each.get("images")]
    data = SpaceCardData(
        title=settings["title"],
        emoji="🔎",
        colorFrom="green",
        colorTo="gray",
        sdk="gradio",
        sdk_version=gradio,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        license=getattr(student, "license", None) or "other",
        models=[repo_id] if repo_id else None,
        tags=["g4i_hf", "image-classification", "zero-shot-image-classification"],
        short_description="What a classifier sees in a picture, and why",
    )
    return SpaceCard.from_template(
        data,
        template_path=str(TEMPLATES / "space.md.j2"),
        title=settings["title"],
        model_id=repo_id,
        text_encoder=side.text_encoder,
        by_names=_is_found(side),
        num_captions=f"{num_captions:,}",
        num_pictures=len(settings["gallery"]),
        gallery_is_new=settings["gallery_is_new"],
        of_data=" and ".join(dict.fromkeys([*links, *names])),
        version=__version__,
    )


def open_data(run: Path) -> tuple[DatasetDict, dict[int, str], str]:
    """
    The data of a run, opened as `g4i evaluate` does, with embeddings where there are captions; the class names; and
    the split that was trained on. ValueError where that has no captions with embeddings.
    """
    args, data, encoder = parse_options(OPTIONS_OF["evaluate"], ["--run", str(run)], run_options=OPTIONS_FILE)
    splits, id2label = class_names(load_data(data))
    captioned = DatasetDict(
        {
            name: split
            for name, split in splits.items()
            if {columns.CAPTION, columns.TEXT_EMBEDS} & set(split.column_names)
        }
    )
    embedded = with_text_embeds(
        captioned,
        encoder,
        encoder.embeddings_dir or run.parent / "embeddings",
        source=source_of(data),
        shared=encoder.embeddings_dir is None,
    )
    training = embedded.get(args.train_split)
    if training is None or not {columns.CAPTION, columns.TEXT_EMBEDS} <= set(training.column_names):
        raise ValueError(f"{run}: split {args.train_split!r} has no captions with embeddings. Leave --space out.")
    return DatasetDict(splits | embedded), id2label, args.train_split


def write_captions(split: Dataset, path: Path, most: int = MOST_CAPTIONS) -> int:
    """Writes distinct captions and their embeddings, float16, at most so many drawn at random; returns how many."""
    texts = Texts.of(split)
    numbers: dict[str, int] = {}  # of each caption, the first of its texts
    for number, caption in enumerate(captions_of(split, texts)):
        numbers.setdefault(caption, number)
    if not numbers:
        raise ValueError("The captions of the data have no embeddings of their own: embed them with g4i embed.")
    captions = sorted(numbers)
    if len(captions) > most:
        captions = [captions[i] for i in sorted(np.random.default_rng(0).choice(len(captions), most, replace=False))]
    vectors = texts.embeds[[numbers[caption] for caption in captions]]
    table = {
        columns.CAPTION: pa.array(captions),
        columns.TEXT_EMBEDS: pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
    }
    pq.write_table(pa.table(table), path, compression="zstd")
    return len(captions)


def write_gallery(
    splits: DatasetDict, id2label: dict[int, str], train_split: str, folder: Path, count: int = PICTURES
) -> tuple[list[dict[str, Any]], bool]:
    """
    Writes images of the splits that were not trained on, drawn at random, of different classes as far as there are
    some: upright RGB of at most 512 pixels, without metadata. Returns `file` and `label` of each, and whether there is
    another split than the one trained on.
    """
    others = [name for name in splits if name != train_split]
    generator = np.random.default_rng(0)
    drawn = {name: generator.permutation(len(splits[name])) for name in others or [train_split]}
    in_turn = [(name, row) for rows in zip_longest(*drawn.values()) for name, row in zip(drawn, rows, strict=True)]
    chosen: list[tuple[Any, str]] = []
    spare: list[tuple[Any, str]] = []
    for name, number in in_turn:
        if len(chosen) == count or len(chosen) + len(spare) == 20 * count:
            break
        if number is not None:  # of a split that has no more
            row = splits[name][int(number)]
            label = row.get(columns.LABEL)
            label = id2label[label] if label is not None and label >= 0 else None
            is_new = label is None or label not in {each for _, each in chosen}
            (chosen if is_new else spare).append((row[columns.IMAGE], label))
    folder.mkdir()
    gallery: list[dict[str, Any]] = []
    for image, label in (chosen + spare)[:count]:
        picture = to_rgb(open_image(image))
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        name = re.sub(r"[^a-z0-9]+", "-", (label or "picture").lower()).strip("-")
        file = f"{len(gallery) + 1:02d}-{name}"[:40] + ".png"
        # from the pixels: Pillow would carry profiles and other metadata along
        Image.fromarray(np.asarray(picture)).save(folder / file, optimize=True)
        gallery.append({"file": file, "label": label})
    return gallery, bool(others)

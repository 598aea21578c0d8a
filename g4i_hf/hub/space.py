"""A Space: a Gradio app of a released student, with everything that it shows in one folder."""

import json
import logging
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from huggingface_hub import ModelCard, SpaceCard, SpaceCardData

from .. import __version__
from ..files import replacing
from ..modeling import AlignedImageClassificationConfig
from ..modeling.own_architecture import own_module
from ..options import aligns
from ..training.lineage import is_hub_id, read_lineage
from ..training.run_folder import read_options
from ..zero_shot.checkpoint import ALIGNED, TEXT_ENCODER_FILE, TextSide
from .markdown import code
from .public_stage import bare_name
from .space_content import open_data, write_captions, write_gallery

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent.parent
TEMPLATE = PACKAGE / "hub_cards" / "space.md.j2"
APP = Path(__file__).with_name("space_app.py")
CODE = (
    "__init__.py",
    "columns.py",
    "checkpoints.py",
    "files.py",
    "options.py",
    "data",
    "embedding",
    "modeling",
    "zero_shot",
)
# What the code imports. The versions are those that it runs with here: an app is not made anew with every release
REQUIREMENTS = (
    "accelerate",
    "datasets",
    "gradio",
    "huggingface_hub",
    "numpy",
    "pillow",
    "psutil",
    "pyarrow",
    "pyyaml",
    "safetensors",
    "sentence-transformers",
    "timm",
    "torch",
    "torchvision",
    "transformers",
)
NAMES = 8  # class names that the box for names holds at first


def build_space(
    run: str | Path, student_dir: str | Path, output_dir: str | Path, *, repo_id: str | None = None
) -> Path:
    """
    Writes a Gradio app that runs as it is, with `python <output_dir>/app.py` or as a Space: the aligned model, the
    code that the app needs, a dozen pictures of the splits that were not trained on, and up to 20,000 captions of the
    training data with their embeddings. The folder is written beside its place and renamed.

    Args:
        run: run folder; pictures and captions are those of its data.
        student_dir: its released student, with `aligned/`.
        output_dir: where the app goes.
        repo_id: the student's Hub id, for title and links.

    Returns:
        The app's folder.

    Raises:
        ImportError: without gradio, whose version the Space names.
        ValueError: for a baseline or a student without `aligned/`, when the data has no captions, or when `output_dir`
            holds something else than an app.
    """
    run, student_dir, output_dir = Path(run), Path(student_dir), Path(output_dir)
    _check(run, student_dir, output_dir)
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
            "names": list(dict.fromkeys(each["label"] for each in gallery if each["label"]))[:NAMES],
        }
        _write(staging / "space.json", json.dumps(settings, indent=2, ensure_ascii=False))
        _write(staging / "requirements.txt", "\n".join(f"{name}=={versions[name]}" for name in REQUIREMENTS))
        card = _card(student_dir, repo_id, settings, num_captions, versions["gradio"], _data(run))
        card.save(staging / "README.md")
    return output_dir


def _check(run: Path, student_dir: Path, output_dir: Path) -> None:
    if output_dir.exists() and any(output_dir.iterdir()) and not (output_dir / "space.json").is_file():
        raise ValueError(f"{output_dir} holds something else than an app. Move it away.")
    if aligns(read_options(run)) is False:
        raise ValueError(
            f"{run} is a baseline, and knows no text: a Space shows the captions nearest to a picture. Make it of a "
            "run with align_weight above 0."
        )
    if not (student_dir / ALIGNED / "config.json").is_file():
        raise ValueError(
            f"{student_dir} has no {ALIGNED}/, without which a Space knows no text. Release the student with "
            "--aligned true, and one with adapters with --lora merged."
        )
    module = own_module(AlignedImageClassificationConfig.from_pretrained(student_dir / ALIGNED).student_config)
    if module is not None:
        raise ValueError(
            f"The architecture of {student_dir} is registered by the module {module}, which a Space does not have: "
            "leave --space out."
        )
    side = _text_side(student_dir)
    if not _is_found(side):
        logger.warning(
            "The text encoder of %s is %s, no Hub id: in a Space the box for names will say that it cannot be loaded. "
            "The nearest captions are shown all the same.",
            student_dir,
            f"the folder {side.text_encoder!r}" if side.text_encoder else "not known",
        )


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
    """
    Raises:
        ImportError: when something is missing, which can only be gradio.
    """
    try:
        return {name: version(name).split("+")[0] for name in REQUIREMENTS}  # 2.9.0+cpu is on no index
    except PackageNotFoundError as error:
        raise ImportError(
            f"A Space needs {error.name}, to name its version: pip install -e '.[space]' in a clone of g4i_hf."
        ) from error


def _data(run: Path) -> str:
    """The data sets that hold captions and images, by their Hub ids or bare names; empty where none is known."""
    sources = read_lineage(run).get("sources") or []
    ids = [
        f"[{each['id']}](https://huggingface.co/datasets/{each['id']})"
        for each in sources
        if is_hub_id(each.get("id") or "")
    ]
    names = [code(bare_name(each["name"])) for each in sources if each.get("name") and each.get("images")]
    return " and ".join(dict.fromkeys([*ids, *names]))


def _card(
    student_dir: Path, repo_id: str | None, settings: dict, num_captions: int, gradio: str, of_data: str = ""
) -> SpaceCard:
    side = _text_side(student_dir)
    student = ModelCard.load(student_dir / "README.md").data if (student_dir / "README.md").is_file() else None
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
        template_path=str(TEMPLATE),
        title=settings["title"],
        model_id=repo_id,
        text_encoder=side.text_encoder,
        by_names=_is_found(side),
        num_captions=f"{num_captions:,}",
        num_pictures=len(settings["gallery"]),
        gallery_is_new=settings["gallery_is_new"],
        of_data=of_data,
        version=__version__,
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text + "\n", encoding="utf-8")

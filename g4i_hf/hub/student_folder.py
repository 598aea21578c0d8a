"""The card of a released student, with its figures and pictures: everything is read from the run folders."""

import json
import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import TimmWrapperConfig

from ..evaluation.card_pictures import ABOUT, CURVES, PICTURES, PREDICTIONS
from ..evaluation.comparison import ComparisonRow
from ..evaluation.evaluate import RESULTS_FILE
from ..modeling import AlignedImageClassificationConfig
from ..modeling.own_architecture import own_module
from ..modeling.processing import ImageSettings, saved_processor, student_processor
from ..options import ReleaseArguments
from ..training.lineage import read_lineage
from ..zero_shot.checkpoint import ALIGNED
from .card import Adapter, Contents, Picture, student_card
from .eval_results import EvaluatedData, benchmark_tasks, eval_result_entries, write_entries
from .figures import comparison, over_seeds
from .licences import licence_fields
from .manifest import read_manifest, write_manifest
from .plain_pixels import PlainPixels
from .release import ONNX_FILE, options_of, release_student

logger = logging.getLogger(__name__)

IMAGES, ADAPTER_FILE = "images", "adapter_config.json"


def release_with_card(
    args: ReleaseArguments, options: dict[str, Any] | None = None
) -> tuple[Path, list[ComparisonRow]]:
    """
    The student of a run and its card as one folder, which takes its place when all of it is there.

    Args:
        args: everything that is said of the student.
        options: of the run, see [`write_card`].

    Returns:
        The folder, and the figures of the card.

    Raises:
        FileNotFoundError, ValueError: as [`~g4i_hf.hub.release_student`] and [`write_card`] do. An earlier release is
            then still there.
    """
    licence_fields(args.license)
    rows: list[ComparisonRow] = []
    student = release_student(
        args.run,
        args.student_dir,
        args.weights,
        aligned=args.aligned,
        onnx=args.onnx,
        lora=args.lora,
        add=lambda folder: rows.extend(write_card(folder, args, options)),
    )
    return student, rows


def write_card(
    student_dir: str | Path, args: ReleaseArguments, options: dict[str, Any] | None = None
) -> list[ComparisonRow]:
    """
    Writes README.md, `.eval_results` and `images` into a released student. Metadata that the Hub would refuse is an
    error before anything is written.

    Args:
        student_dir: as [`~g4i_hf.hub.release_student`] has written it.
        args: the run, its baseline, other seeds, the weights, the Hub id, the licence, whether pictures are shown, and
            whether an ONNX graph is there or about to be.
        options: of the run; by default those of its `train.yaml`. Where there is none, the card says nothing of them.

    Returns:
        The figures, beside the baseline's where one is given.

    Raises:
        ValueError: for a licence that the Hub does not know, or runs of other seeds that cannot be compared.
    """
    student_dir, run = Path(student_dir), Path(args.run)
    rows, seeds, lineage = comparison(args), over_seeds(args), read_lineage(run)
    pictures = _pictures(run, args)
    card = student_card(
        **_facts(student_dir, run),
        options=options_of(run) if options is None else options,
        rows=rows,
        seeds=seeds,
        lineage=lineage,
        contents=Contents(
            aligned=(student_dir / ALIGNED).is_dir(),
            onnx=args.onnx or (student_dir / ONNX_FILE).is_file(),
            adapter=_adapter(student_dir),
            pictures=list(pictures.values()),
        ),
        model_id=args.repo_id or "path/to/student",
        weights=args.weights,
        license=args.license,
    )
    data = EvaluatedData.of(lineage)
    if data is not None and rows:
        entries = eval_result_entries(
            rows, seeds, data, weights=args.weights, date=_date(run), tasks=benchmark_tasks(data)
        )
        write_entries(student_dir, entries)
    for file, picture in pictures.items():
        (student_dir / IMAGES).mkdir(exist_ok=True)
        shutil.copyfile(file, student_dir / picture.file)
    card.save(student_dir / "README.md")
    if read_manifest(student_dir) is not None:
        write_manifest(student_dir)
    return rows


def _facts(student_dir: Path, run: Path) -> dict[str, Any]:
    """Of the student itself, without loading it: the tensors of the files are counted."""
    config = AlignedImageClassificationConfig.from_pretrained(run).student_config
    is_timm, module = isinstance(config, TimmWrapperConfig), own_module(config)
    if module == "__main__":
        raise ValueError(
            "The architecture of this student is registered by the script or notebook itself, which nobody else can "
            "import: put it into a module."
        )
    processor = student_processor(config, saved_processor(run, config))
    return {
        "architecture": config.architecture if is_timm else (config.architectures or [config.model_type])[0],
        "num_labels": config.num_labels,
        "num_parameters": _num_parameters(student_dir),
        "image_size": ImageSettings.from_processor(processor).size,
        "classes": [config.id2label[i] for i in range(config.num_labels)],
        "pixels": PlainPixels.of(processor),
        "is_timm": is_timm,
        "module": module,
    }


def _num_parameters(folder: Path) -> int:
    """Numbers in the weights of a folder; running statistics and counters of batches are few and left out."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is no mapping
                if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
                    shape = tensors.get_slice(name).get_shape()
                    size = 1
                    for side in shape:
                        size *= side
                    total += size
    return total


def _adapter(folder: Path) -> Adapter | None:
    path = folder / ADAPTER_FILE
    if not path.is_file():
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    return Adapter(config["base_model_name_or_path"], config.get("revision"))


def _pictures(run: Path, args: ReleaseArguments) -> dict[Path, Picture]:
    """The pictures that `g4i evaluate` has left in the run: where they are, and what they are in the card."""
    if not args.card_pictures:
        return {}
    folder, found = run / PICTURES, {}
    about = json.loads((folder / ABOUT).read_text()) if (folder / ABOUT).is_file() else {}
    if (folder / CURVES).is_file():
        text = "Accuracy on the split that was evaluated during training, and cross entropy on the training images."
        found[folder / CURVES] = Picture(f"{IMAGES}/{CURVES}", "Accuracy and loss by epoch", text)
    if (folder / PREDICTIONS).is_file() and about.get("weights") == args.weights:
        captions_of = about.get("captions_of")
        nearest = f" and the caption of `{captions_of}` that the aligned model finds nearest" if captions_of else ""
        text = (
            f"Images of `{about['split']}`, drawn at random: above each its class, in red where the prediction is "
            f"another; below it the prediction{nearest}."
        )
        found[folder / PREDICTIONS] = Picture(
            f"{IMAGES}/{PREDICTIONS}", f"Images of {about['split']} with predictions", text
        )
    if not found:
        logger.warning(
            "The card has no pictures: g4i evaluate --run %s draws them, with matplotlib (pip install -e '.[demo]' in "
            "a clone of g4i_hf).",
            run,
        )
    return found


def _date(run: Path) -> str | None:
    """Day of the evaluation."""
    path = run / RESULTS_FILE
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat() if path.is_file() else None

"""The files of a release for other runtimes: each is compared with PyTorch, and judged again on images."""

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.benchmark import Timer
from transformers import BaseImageProcessor, PreTrainedModel

from .. import columns
from ..cli import build_options
from ..data.checks import labels_of, readable_rows
from ..data.classes import class_names
from ..data.groups import groups_of
from ..data.images import open_image, to_rgb
from ..data.labels import GOLD
from ..data.loading import load_reviewed
from ..evaluation.comparison import markdown_table
from ..evaluation.estimate import judged_by_labels
from ..modeling.none_of_these import NoneOfThese
from ..modeling.processing import EvalTransform
from ..modeling.student import feature_size
from ..names import FORMATS_FILE, NONE_FILE, USUAL_PRECISION, run_of
from ..options import DataArguments, EvaluateArguments
from ..options.evaluation import ONNX, ONNX_FP16, ONNX_INT8
from ..output import progress_bar
from ..words import ends_in_words
from .int8 import save_in_int8
from .onnx import Pixels, graph_of, name_of, require_onnx, save, with_half_weights

logger = logging.getLogger(__name__)

FILES = {ONNX: "onnx/model.onnx", ONNX_FP16: "onnx/model_fp16.onnx", ONNX_INT8: "onnx/model_int8.onnx"}
PYTORCH = "pytorch"
BATCHES = (1, 2, 3, 8)  # of random images
# Of their logits, relative to the largest, or to 1 if that is smaller
TOLERANCE = {ONNX: 1e-4, ONNX_FP16: 2e-2, ONNX_INT8: math.inf}
LEAST_AGREEMENT = 0.995  # of the classes of images that judge
# In int8, of the classes of those that PyTorch answers, and of the accuracy on all
LEAST_AGREEMENT_INT8, MOST_LOST = 0.98, 0.015
MOST_IMAGES, CALIBRATING, AT_ONCE = 1000, 128, 32
SECONDS = 1.0  # of the timing


@dataclass
class Images:
    """Images that judge, at most `MOST_IMAGES` by chance."""

    split: str
    rows: Dataset
    labels: np.ndarray | None  # (n,) correct ones, if any

    @property
    def groups(self) -> np.ndarray:
        """(n,) the same for images of one scene."""
        named = columns.GROUP in self.rows.column_names
        return groups_of(self.rows[columns.GROUP][:] if named else [None] * len(self.rows), np.arange(len(self.rows)))


@dataclass
class Format:
    """A file as it was judged; `accuracy` and `agreement` are None without images."""

    format: str
    accuracy: float | None
    interval: tuple[float, float] | None
    agreement: float | None  # share of the images with the class that PyTorch predicts
    megabytes: float
    milliseconds: float  # an image, the median on this CPU
    judged_on: str | None
    images: int


def write_formats(
    names: Iterable[str],
    student: PreTrainedModel,
    processor: BaseImageProcessor,
    thresholds: dict[str, Any],
    run: str | Path,
    folder: Path,
) -> list[Format]:
    """
    Write `names` of `FORMATS` into the folder of a release, and how each was judged into `formats.json`.

    Raises:
        ImportError: without the extra `onnx`.
        ValueError: if the student cannot be exported, or a file differs from PyTorch by more than it may.
    """
    require_onnx()
    import onnxruntime

    student, pixels = student.float().eval(), Pixels.of(processor)
    classes = [str(student.config.id2label[label]) for label in range(student.config.num_labels)]
    score = folder / NONE_FILE
    none_of_these = NoneOfThese.load(score, feature_size(student)) if score.is_file() else None
    graph, sessions = graph_of(student, pixels, thresholds, classes, none_of_these), {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    splits, train_split = _splits(run, classes)
    for name in dict.fromkeys(names):
        file = folder / FILES[name]
        if name == ONNX_INT8:
            if not splits:
                raise ValueError(f"{name} needs the images of the run. Leave it out of --formats.")
            file.parent.mkdir(exist_ok=True)
            training = Images(train_split, _chosen(splits[train_split], train_split, slice(-CALIBRATING, None)), None)
            save_in_int8(graph, map(pixels.images, _batches(training, processor, "Calibrating int8")), file)
        else:
            save(graph if name == ONNX else with_half_weights(graph), file)
        sessions[name] = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
        try:
            _compare(student, pixels, sessions[name], TOLERANCE[name])
        except ValueError as error:
            raise ValueError(f"{name_of(student)}: {FILES[name]} {error} Leave {name} out of --formats.") from error
    images = images_that_judge(splits, train_split) if splits else None
    least = thresholds.get(f"{USUAL_PRECISION:g}", {}).get("threshold", 0.0)
    judged = _judged(student, processor, pixels, sessions, images, folder, least)
    text = json.dumps([asdict(each) for each in judged], indent=2)
    (folder / FORMATS_FILE).write_text(text + "\n", encoding="utf-8")
    return judged


def _splits(run: str | Path, classes: list[str]) -> tuple[Mapping[str, Dataset], str]:
    """The data of a run, and the name of the training split. Empty, with a warning, if the data cannot be opened."""
    try:
        args, data = build_options((EvaluateArguments, DataArguments), {"run": str(run_of(run))})
        splits, id2label = class_names(load_reviewed(data))
        if [id2label[label] for label in range(len(id2label))] != classes:
            raise ValueError("its classes have changed.")
    except (OSError, ValueError) as error:
        message = "The images of %s cannot be opened, so its files are compared on random pixels alone: %s"
        logger.warning(message, run, error)
        return {}, ""
    return splits, args.train_split


def images_that_judge(splits: Mapping[str, Dataset], train_split: str) -> Images:
    """Gold images, or the labelled ones of `validation`. Otherwise training images, whose labels may be wrong."""
    for name in (GOLD, "validation"):
        if name in splits and (rows := np.flatnonzero(labels_of(splits[name]) >= 0)).size:
            chosen = _chosen(splits[name].select(rows), name, slice(MOST_IMAGES))
            return Images(name, chosen, labels_of(chosen))
    return Images(train_split, _chosen(splits[train_split], train_split, slice(MOST_IMAGES)), None)


def _chosen(split: Dataset, name: str, of_shuffled: slice) -> Dataset:
    rows = np.sort(np.random.default_rng(0).permutation(len(split))[of_shuffled])
    return readable_rows(split.select(rows), name)


@torch.no_grad()
def _compare(student: PreTrainedModel, pixels: Pixels, session: Any, tolerance: float) -> None:
    """Raise ValueError if the logits of random images differ, in batches of several sizes."""
    generator, size = np.random.default_rng(0), pixels.settings.size
    for batch in BATCHES:
        images = generator.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        expected = student(pixel_values=pixels.pixel_values(images)).logits.numpy()
        try:
            logits = session.run(["logits"], {"images": images})[0]
        except Exception as error:  # onnxruntime has no base class for its errors
            raise ValueError(f"does not take {batch} images: {' '.join(str(error).split())}") from error
        if logits.shape != expected.shape:
            raise ValueError(f"gives logits of shape {logits.shape}, not {expected.shape}.")
        difference = np.abs(logits - expected).max() / max(1.0, np.abs(expected).max())
        if not difference <= tolerance:  # NaN too
            raise ValueError(f"gives other logits than PyTorch, by {difference:.1e} of the largest.")


@torch.no_grad()
def _judged(
    student: PreTrainedModel,
    processor: BaseImageProcessor,
    pixels: Pixels,
    sessions: dict[str, Any],
    images: Images | None,
    folder: Path,
    least: float,
) -> list[Format]:
    """PyTorch first, which answers from the probability `least`. Raises ValueError for a file whose classes differ."""
    classes: dict[str, list[np.ndarray]] = {name: [] for name in (PYTORCH, *sessions)}
    sure = list[np.ndarray]()
    for batch in _batches(images, processor, "Judging the files"):
        best = student(pixel_values=batch).logits.softmax(-1).max(-1)
        classes[PYTORCH].append(best.indices.numpy())
        sure.append((best.values >= least).numpy())
        given = {"images": pixels.images(batch)}
        for name, session in sessions.items():
            classes[name].append(session.run(["logits"], given)[0].argmax(-1))
    predicted = {name: np.concatenate(each) for name, each in classes.items() if each}
    judged = []
    for name in classes:
        file, size = folder / FILES.get(name, "model.safetensors"), pixels.settings.size
        milliseconds = round(_milliseconds(student, sessions.get(name), size), 2)
        each = Format(name, None, None, None, round(file.stat().st_size / 1e6, 2), milliseconds, None, 0)
        if images is not None:
            differs = predicted[name] != predicted[PYTORCH]
            each.agreement, each.judged_on, each.images = 1 - float(differs.mean()), images.split, len(differs)
            if images.labels is not None:
                judgement = judged_by_labels({name: predicted[name]}, images.labels, groups=images.groups)
                each.accuracy, each.interval = judgement.accuracies[name].share, judgement.accuracies[name].interval
        judged.append(each)
        if images is not None and name == ONNX_INT8:
            answered = np.concatenate(sure)
            _check_int8(each, judged[0], 1 - float(differs[answered if answered.any() else ...].mean()))
        elif images is not None:
            _check_agreement(name, differs, images.split)
    return judged


def _batches(images: Images | None, processor: BaseImageProcessor, doing: str) -> Iterator[torch.Tensor]:
    """`pixel_values` (n, 3, H, W)."""
    if images is None:
        return
    transform = EvalTransform(processor)
    for start in progress_bar(range(0, len(images.rows), AT_ONCE), unit="batch", desc=doing, leave=False):
        stored = images.rows[start : start + AT_ONCE][columns.IMAGE]
        yield torch.stack([transform(to_rgb(open_image(image))) for image in stored])


def _check_agreement(name: str, differs: np.ndarray, split: str) -> None:
    """One image may be as likely of one class as of another, so that few images are no measure."""
    if differs.sum() > max(1, (1 - LEAST_AGREEMENT) * len(differs)):
        raise ValueError(
            f"{FILES[name]} predicts other classes than PyTorch for {differs.sum():,} of {len(differs):,} images of "
            f"{split!r}; {LEAST_AGREEMENT:.1%} must be the same. Leave {name} out of --formats."
        )


def _check_int8(int8: Format, pytorch: Format, agreement: float) -> None:
    """`agreement`: on the images that PyTorch answers."""
    lost = 0.0 if int8.accuracy is None else pytorch.accuracy - int8.accuracy
    if not (agreement >= LEAST_AGREEMENT_INT8 and lost <= MOST_LOST):
        right = (
            "" if int8.accuracy is None else f", and {int8.accuracy:.1%} accuracy in place of {pytorch.accuracy:.1%}"
        )
        raise ValueError(
            f"{ONNX_INT8} would have PyTorch's class for {agreement:.1%} of the images of {int8.judged_on!r} that it "
            f"answers{right}. It takes {LEAST_AGREEMENT_INT8:.0%}, and at most {100 * MOST_LOST:.1f} points less. "
            f"Leave {ONNX_INT8} out of --formats."
        )


def _milliseconds(student: PreTrainedModel, session: Any, size: int) -> float:
    if session is None:
        call: dict[str, Any] = {"run": student, "given": {"pixel_values": torch.zeros(1, 3, size, size)}}
        code = "run(**given)"
    else:
        call = {"run": session.run, "given": {"images": np.zeros((1, size, size, 3), np.uint8)}}
        code = "run(None, given)"
    timer = Timer(code, globals=call, num_threads=torch.get_num_threads())
    return 1000 * timer.blocked_autorange(min_run_time=SECONDS).median


def read_formats(release: str | Path) -> list[Format]:
    """Of a release; empty without any."""
    file = Path(release) / FORMATS_FILE
    return [Format(**each) for each in json.loads(file.read_text(encoding="utf-8"))] if file.is_file() else []


# --- In words --------------------------------------------------------------------------------------------------------


def formats_table(formats: list[Format]) -> str:
    """Markdown; empty without formats."""
    heads = ("file", "MB", "ms an image", "accuracy", "95% interval", "as PyTorch")
    cells = [
        [
            f"`{FILES.get(each.format, 'model.safetensors')}`",
            f"{each.megabytes:.1f}",
            f"{each.milliseconds:.1f}",
            "" if each.accuracy is None else f"{each.accuracy:.1%}",
            "" if each.interval is None else f"{ends_in_words(each.interval)}%",
            "" if each.agreement is None else f"{each.agreement:.1%}",
        ]
        for each in formats
    ]
    return markdown_table(heads, cells) if formats else ""


def formats_in_words(formats: list[Format]) -> str:
    """What judged them."""
    if not formats:
        return ""
    first = formats[0]
    if not first.images:
        return "No images judged these files: on random pixels, their logits are those of PyTorch."
    correct = "" if first.accuracy is not None else " Their labels may be wrong, so they tell no accuracy."
    images = f"{first.images:,} image{'s' * (first.images > 1)} of `{first.judged_on}`"
    return f"{images} judged these files.{correct} Milliseconds are of the machine that released them."


def format_lines(formats: list[Format]) -> list[str]:
    """For the terminal, a line a file."""
    lines = []
    for each in formats:
        accuracy = f"{each.accuracy:.1%} ({ends_in_words(each.interval)}%), " if each.interval else ""
        same = f"{each.agreement:.1%} as PyTorch, " if each.agreement is not None else "not judged on images, "
        lines.append(f"{each.format:<10}{accuracy}{same}{each.megabytes:.1f} MB, {each.milliseconds:.1f} ms an image")
    return lines

"""Release of a run: its student as a plain checkpoint for use without g4i_hf, with a card and the aligned model."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import timm
from huggingface_hub import HfApi, ModelCard, hf_hub_download
from tqdm import tqdm
from transformers import BaseImageProcessor, TimmWrapperConfig

from ..evaluation.comparison import ComparisonRow, as_text, shown_names
from ..evaluation.metrics import read_results
from ..evaluation.predict import load_run
from ..files import check_replaceable, give_usual_permissions, replacing
from ..modeling import AlignedImageClassification, AlignedImageClassificationConfig
from ..modeling.modeling_aligned import PUBLIC_PRETRAINED_CFG, save_student
from ..modeling.processing import ImageSettings, saved_processor
from ..modeling.student import own_module, plain_student
from ..names import (
    ALL_LAYERS,
    CLASSIFIER,
    FITTED_ON_FILE,
    LABELS_ONLY,
    NONE_FILE,
    THRESHOLDS,
    WITH_VIEWS,
    changed_in_words,
    changed_since_fit,
    is_of_fit,
    is_shipped,
    note_files_of_fit,
    require,
    run_of,
    why_missing,
)
from ..options import ReleaseArguments, aligns
from ..options.caller import called_from_python
from ..training.arguments import AlignmentArguments
from ..training.run_folder import read_lineage, read_options, resolved_options
from ..zero_shot.checkpoint import ALIGNED, TEXT_ENCODER_FILE, TextSide
from .card import NONCOMMERCIAL, Student, student_card
from .dataset import build_dataset
from .figures import measured
from .formats import Format, format_lines, read_formats, write_formats
from .onnx import require_onnx
from .push import MANIFEST, OF_DATASET, OF_STUDENT, SECRETS, clear_errors, last_push, list_files, push_folder

logger = logging.getLogger(__name__)


@called_from_python()
def release_student(
    run: str | Path,
    output_dir: str | Path | None = None,
    weights: Literal["raw", "ema"] = "raw",
    *,
    aligned: bool = True,
    formats: Sequence[str] = (),
) -> Path:
    """
    Write the student of a run. `AutoModelForImageClassification.from_pretrained` and, for a timm student,
    `timm.create_model("local-dir:...")` load it with exactly the weights of the run. The folder is complete or absent.

    Args:
        run: run folder, one of its checkpoints, or a folder of `g4i fit`.
        output_dir: folder of the student; by default `<run>/student`, and `classifier` in a folder of `g4i fit`. Only
            an earlier release in it is replaced.
        weights: `"raw"`, or `"ema"` for their moving average.
        aligned: add the aligned model with the same weights in `aligned/`, and the record of the text encoder. Omitted
            for a run without alignment, whose projector is random.
        formats: also write the classifier as `onnx`, `onnx-fp16` or `onnx-int8`, see
            [`~g4i_hf.hub.formats.write_formats`].

    Returns:
        The folder of the student, with a card.

    Raises:
        FileNotFoundError: if the folder holds no trained model, or no average.
        ValueError: if `output_dir` holds the run, or anything but an earlier release of a student; if the student
            cannot be exported, or a file predicts other classes.
    """
    place = str(output_dir) if output_dir else None
    args = ReleaseArguments(run=str(run), output_dir=place, weights=weights, aligned=aligned, formats=[*formats])
    folder, _ = release_with_card(with_run_of_fit(args))
    _note_in_fit(str(run), folder)
    return folder


def release_with_card(
    args: ReleaseArguments, options: dict[str, Any] | None = None
) -> tuple[Path, list[ComparisonRow]]:
    """[`release_student`] by options. Returns the folder, and the metrics of the card."""
    run, output_dir = Path(args.run), place_of(args)
    check_replaceable(output_dir, *OF_STUDENT)
    if args.formats:
        require_onnx()
    model, processor = load_run(run, args.weights)
    _forget_origin(model)
    with replacing(output_dir) as folder:
        save_student(model, folder)
        if not isinstance(model.config.student_config, TimmWrapperConfig):  # whose config.json is enough
            saved_processor(run, model.config.student_config).save_pretrained(folder)
        if finds_none := (run_of(run) / NONE_FILE).is_file():
            shutil.copyfile(run_of(run) / NONE_FILE, folder / NONE_FILE)
        if args.weights == "raw" and (run_of(run) / FITTED_ON_FILE).is_file():
            shutil.copyfile(run_of(run) / FITTED_ON_FILE, folder / FITTED_ON_FILE)
        thresholds = _add_thresholds(folder / "config.json", read_results(run).get("decisions", []))
        give_usual_permissions(folder)
        options = read_options(run_of(run)) if options is None else options
        with_aligned = args.aligned and aligns(options) is not False
        if with_aligned:
            _save_aligned(model, run, folder / ALIGNED)
        lineage = read_lineage(run_of(run))
        formats: list[Format] = []
        if args.formats:
            formats = write_formats(args.formats, plain_student(model), processor, thresholds, run, folder)
        student = Student(
            **_facts(model, processor),
            weights=args.weights,
            thresholds=thresholds,
            finds_none=finds_none,
            options=options,
            lineage=lineage,
            **measured(args),
            aligned=with_aligned,
            formats=formats,
            model_id=args.repo_id or "path/to/student",
            license=args.license,
            weights_license=weights_license(lineage),
        )
        if NONCOMMERCIAL.search(student.weights_license or ""):
            message = "The starting weights (%s) are under %s, which forbids commercial use, regardless of --license."
            logger.warning(message, lineage["student"]["name"], student.weights_license)
        student_card(student).save(folder / "README.md")
        (folder / MANIFEST).touch()
    return output_dir, student.rows


def with_run_of_fit(args: ReleaseArguments) -> ReleaseArguments:
    """
    A folder of `g4i fit` stands for the run in its `classifier`, beside its baseline. Raises FileNotFoundError if that
    fit is not finished, ValueError if its runs are not what it wrote.
    """
    if not args.run or not is_of_fit(args.run):
        return args
    folder, results = Path(args.run), read_results(args.run)
    if changed := [name for name in changed_since_fit(folder) if not is_shipped(name)]:
        what = changed_in_words(folder, changed)
        raise ValueError(f"{what}. Run its command again, which fits anew and keeps this result beside it.")
    if not (released := results.get("released")):
        raise FileNotFoundError(f"{folder} holds a g4i fit that is not finished. Run its command again to resume it.")
    if "all_layers" not in results:
        raise ValueError(f"{folder} holds a g4i fit by an earlier version. Run its command again.")
    run, baseline = runs_of_release(folder, released, results["all_layers"])
    place = args.output_dir or str(folder / CLASSIFIER)
    return replace(args, run=str(run), baseline=args.baseline or baseline, output_dir=place)


def _note_in_fit(run: str, released: Path) -> None:
    """A release in place of the `classifier` of a `g4i fit` is what its folder holds from now on."""
    if is_of_fit(run) and released.resolve() == (Path(run) / CLASSIFIER).resolve():
        note_files_of_fit(run)


def runs_of_release(folder: Path, released: str, all_layers: Mapping[str, Any] | None) -> tuple[Path, str | None]:
    """
    The run of a classifier of `g4i fit`, with all layers trained where these are kept; and its baseline, where both
    differ in what they learned from alone.
    """
    if all_layers and all_layers["kept"] and all_layers["classifier"] == released:
        return folder / ALL_LAYERS, None
    has_baseline = released == WITH_VIEWS and (folder / LABELS_ONLY).is_dir()
    return folder / released, str(folder / LABELS_ONLY) if has_baseline else None


def place_of(args: ReleaseArguments) -> Path:
    if args.output_dir or args.run:
        return Path(args.output_dir or Path(args.run) / "student")
    stage = Path(args.stage)
    stage = stage if stage.name not in ("", "..") else stage.resolve()  # `.` has no name
    return stage.with_name(f"{stage.name}-dataset")


def _add_thresholds(config: Path, decisions: list[dict[str, Any]]) -> dict[str, Any]:
    """Above which probability to answer, by precision, as `g4i fit` found it; `g4i predict` reads it."""
    names = ("threshold", "share", "interval", "certain")
    known = {f"{each['precision']:g}": {name: each[name] for name in names} for each in decisions if each["threshold"]}
    if known:
        values = json.loads(config.read_text(encoding="utf-8")) | {THRESHOLDS: known}
        config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return known


def _save_aligned(model: AlignedImageClassification, run: Path, folder: Path) -> None:
    """Save student and projector, with merged adapters, and the record of the text encoder."""
    if model.config.lora is not None:
        fields = {**model.config.to_dict(), "lora": None}
        merged = AlignedImageClassification(AlignedImageClassificationConfig(**fields), plain_student(model))
        own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("student.")}
        merged.load_state_dict(own, strict=False)
        model = merged.eval()
    model.save_pretrained(folder)
    give_usual_permissions(folder)
    saved_processor(run, model.config.student_config).save_pretrained(folder)
    if (encoder := TextSide.of_run(run_of(run))).text_encoder:
        text = json.dumps(encoder.published(), indent=2, ensure_ascii=False)
        (folder / TEXT_ENCODER_FILE).write_text(text + "\n", encoding="utf-8")


def _forget_origin(model: AlignedImageClassification) -> None:
    """Drop the folder that the student was loaded from, and timm's description of its initial weights."""
    config = model.config.student_config
    config.__dict__.pop("_name_or_path", None)
    if isinstance(config, TimmWrapperConfig) and getattr(config, "pretrained_cfg", None):
        config.pretrained_cfg = {
            name: value for name, value in config.pretrained_cfg.items() if name in PUBLIC_PRETRAINED_CFG
        }


def weights_license(lineage: dict[str, Any]) -> str | None:
    """The license of the pretrained weights of a run, from timm or the card of the checkpoint; None if unknown."""
    student = lineage.get("student") or {}
    if not student.get("pretrained"):
        return None
    name = student["name"].removeprefix("timm/")
    if timm.is_model(name):
        return timm.get_pretrained_cfg(name).license
    if not student.get("id") or why_missing(student["id"], "model"):
        return None
    try:
        card = ModelCard.load(hf_hub_download(student["id"], "README.md", revision=student.get("revision"))).data
    except (OSError, ValueError):  # of the Hub or the network, or an invalid card
        return None
    return card.get("license_name") or card.get("license")


def _facts(model: AlignedImageClassification, processor: BaseImageProcessor) -> dict[str, Any]:
    """Facts about the student."""
    config = model.config.student_config
    is_timm, module = isinstance(config, TimmWrapperConfig), own_module(config)
    if module == "__main__":
        raise ValueError("The architecture is registered by the script or notebook itself: put it into a module.")
    settings = ImageSettings.from_processor(processor)
    has_center_crop = is_timm and config.pretrained_cfg.get("crop_mode", "center") == "center"
    return {
        "architecture": config.architecture if is_timm else (config.architectures or [config.model_type])[0],
        "num_labels": config.num_labels,
        "num_parameters": sum(weights.numel() for weights in plain_student(model).parameters()),
        "image_size": settings.size,
        "pixels": settings if has_center_crop else None,
        "classes": [config.id2label[i] for i in range(config.num_labels)],
        "is_timm": is_timm,
        "module": module,
    }


class StudentPublisher:
    """
    Pushes the release of a run, not its folder, at the end of a training with `push_to_hub`.

    The repository is created before training, so that a token without write access fails early. `args` are
    `hub_model_id`, `hub_token` and `hub_private_repo`.
    """

    def __init__(self, args: AlignmentArguments):
        self.args = args
        self.repo_id = args.hub_model_id or Path(args.output_dir).resolve().name

    def start(self) -> str:
        """Create the repository; returns its full id. Raises ImportError without detect-secrets, and PushError."""
        require("detect_secrets", "hub", SECRETS)
        check_replaceable(Path(self.args.output_dir) / "student", *OF_STUDENT)
        api = HfApi(token=self.args.hub_token)
        with clear_errors(self.repo_id):
            private = self.args.hub_private_repo is not False
            self.repo_id = api.create_repo(self.repo_id, private=private, exist_ok=True).repo_id
            last_push(api, self.repo_id)
        return self.repo_id

    def push_run(self, message: str = "End of training") -> str:
        """
        Push the release of the finished run, with its card; returns the URL of the commit. Without a `train.yaml`, as
        in a run from Python, the options are those of the arguments. Raises ValueError for a release that cannot be
        made or must not be published; OSError if it was not written or pushed.
        """
        run = self.args.output_dir
        args = ReleaseArguments(run=run, repo_id=self.repo_id, aligned=self.args.aligns)
        student, _ = release_with_card(args, read_options(run_of(run)) or resolved_options((self.args,), run))
        return push_folder(
            student,
            self.repo_id,
            private=self.args.hub_private_repo is not False,
            message=message,
            token=self.args.hub_token,
        )


# --- The command -----------------------------------------------------------------------------------------------------


def build_release(args: ReleaseArguments, scratch: Path | None = None) -> tuple[Path, list[str]]:
    """
    Builds a student or a dataset, in a dry run within `scratch`. Returns its folder, and lines for the user. Raises
    ValueError or OSError for a run or stage that cannot be released.
    """
    given, args = args.run, with_run_of_fit(args)
    place, lines = place_of(args), list[str]()
    folder = scratch / place.resolve().name if scratch else place
    check_replaceable(place, *(OF_DATASET if args.stage else OF_STUDENT))
    if args.stage:
        options = {name: getattr(args, name) for name in ("with_images", "images_id", "license", "repo_id")}
        build_dataset(args.stage, folder, **options)
        lines.append(f"dataset   {place}  (Parquet files and a card, for datasets.load_dataset)")
    else:
        _, rows = release_with_card(replace(args, output_dir=str(folder)))
        _note_in_fit(given, folder)
        if rows:
            lines.append(f"\n{as_text(rows, shown_names(read_options(args.run)))}\n")
        lines.append(f"student   {place}  (a plain checkpoint, for AutoModelForImageClassification.from_pretrained)")
        lines += format_lines(read_formats(folder))
        lines.append(f"run       {args.run}  (the aligned model, options, figures, predictions)")
    return folder, [*lines, f"license   {args.license or 'none: give one with --license'}"]


def listed(folder: Path, args: ReleaseArguments) -> list[str]:
    """The files that would be pushed, for a dry run."""
    files = list_files(folder)
    where = args.repo_id or "a repository that --repo_id names"
    visibility = "private" if args.private else "public"
    total = tqdm.format_sizeof(sum(size for _, size in files), "B")
    lines = [f"\nWould be pushed to {where}, {visibility} if new: {len(files)} files, {total}"]
    return lines + [f"{tqdm.format_sizeof(size, 'B'):>10}  {name}" for name, size in files]

"""What [`~g4i_hf.AlignmentTrainer`] makes of a student's name, and of datasets with images, labels and captions."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from .. import columns
from ..data.checks import check_captioned, check_split
from ..data.dataset import CaptionedImages
from ..data.loading import class_names, standardise, with_class_names
from ..data.stage import join_stage, read_stage
from ..embedding import EncoderArguments, text_embeds_folder
from ..embedding.embed import CACHE
from ..modeling import AlignedImageClassification
from ..modeling.processing import student_processor
from ..options import AugmentationArguments, RunArguments, StudentArguments, SupervisionOptions
from .arguments import AlignmentArguments
from .build import BuiltStudent, build_student, class_name_examples, processor_of, supervised_split
from .lineage import lineage_of

TRAINING, EVALUATION = "train_dataset", "eval_dataset"
NAMES = {TRAINING: "train", EVALUATION: "validation"}


@dataclass
class Prepared:
    """
    Attributes:
        model: the aligned model.
        images: the training images.
        options: of `Trainer`: the images of evaluation, the image processor, accuracy, and those that were given.
        soft_label_weight: of the plan; None without soft labels from captions.
        lineage: as far as it is known, see [`~g4i_hf.training.lineage.lineage_of`].
    """

    model: AlignedImageClassification
    images: CaptionedImages
    options: dict[str, Any]
    soft_label_weight: float | None
    lineage: dict[str, Any]


def is_raw(data: Any) -> bool:
    """Whether these are images to be prepared here, and not items with `pixel_values`."""
    return isinstance(data, Dataset) and data.format["type"] != "custom" and "pixel_values" not in data.column_names


def prepare(
    model: AlignedImageClassification | str,
    args: AlignmentArguments,
    training: Dataset,
    text_encoder: str,
    options: Mapping[str, Any],
) -> Prepared:
    """
    Args:
        model: the aligned model, or the name of its student.
        training: rows with `image`, `label` and `caption` or `text_embeds`.
        text_encoder: for captions that are not embedded.
        options: those of `Trainer`, of the student, of the augmentation and of labels from captions.

    Raises:
        ValueError: for data without labels, or without captions where there is an alignment; for faults in the data.
    """
    if not is_raw(training):
        raise ValueError(
            f"With a student's name, train_dataset is one split with image, label and caption, such as "
            f"load_images('pictures')['train']; it is a {type(training).__name__}."
        )
    of_student, of_images, of_run, others = _grouped(options, with_student=isinstance(model, str))
    splits = _standardised(training, others.get(EVALUATION))
    splits, id2label = class_names(splits)
    if not isinstance(model, str):
        splits = with_class_names(splits, [model.config.id2label[i] for i in range(model.num_labels)])
    run, encoder = RunArguments(**of_run), EncoderArguments(text_encoder)
    is_embedded = columns.TEXT_EMBEDS in splits[TRAINING].column_names  # by an encoder that is not known here
    asks = args.aligns or run.supervision != "none" or (run.label_noise or "keep") != "keep"
    embeddings = _add_embeddings(splits, encoder) if asks else None
    training = splits[TRAINING]
    dim = columns.text_embed_dim_of(training.features.get(columns.TEXT_EMBEDS))
    augmentation, student = AugmentationArguments(**of_images), None
    if isinstance(model, str):
        student = StudentArguments(student=model, **of_student)
        built = build_student(student, augmentation, args.seed, id2label, dim)
    else:
        built = _built_from(model, args, others)
    _check(splits, built.model, dim)
    supervised = supervised_split(
        training,
        run,
        args,
        num_labels=built.model.num_labels,
        is_pretrained=student.pretrained if student else run.image_features == "student",
        built=lambda: built,
        class_embeds=None if is_embedded else partial(class_name_examples, id2label, encoder, args.device, dim),
        folder=None,
    )
    if args.process_index == 0:
        print(*supervised.plan.reasons, sep="\n", end="\n" if supervised.plan.reasons else "")
    images = CaptionedImages(supervised.split, built.train_transform(augmentation), args.seed, args.align_captions)
    others = {**built.trainer_options(), **others}
    if others.get(EVALUATION) is not None:
        others[EVALUATION] = _eval_images(others[EVALUATION], splits, built)
    lineage = lineage_of({NAMES.get(name, name): splits[name] for name in splits}, None, student, embeddings)
    return Prepared(built.model, images, others, supervised.plan.soft_label_weight or None, lineage)


def _grouped(options: Mapping[str, Any], with_student: bool) -> list[dict[str, Any]]:
    """The options of the student, of the augmentation, of labels from captions, and the others."""
    groups = [{each.name for each in fields(cls)} for cls in (StudentArguments, AugmentationArguments)]
    groups.append({each.name for each in fields(SupervisionOptions)})
    if not with_student:  # the model is there: `Trainer` says that it knows no such option
        groups[0], groups[1] = set(), groups[1] - {"image_size", "interpolation", "crop_pct"}
    found = [{name: value for name, value in options.items() if name in group} for group in groups]
    return [*found, {name: value for name, value in options.items() if name not in set.union(*groups)}]


def _standardised(training: Dataset, evaluated: Any) -> DatasetDict:
    """The raw splits, with our columns; those of evaluation by the names that messages give them."""
    of_evaluation = evaluated if isinstance(evaluated, Mapping) else {None: evaluated}
    named = {TRAINING: training} | {_name_of(key): split for key, split in of_evaluation.items() if is_raw(split)}
    return DatasetDict({name: standardise(split, name, {}) for name, split in named.items()})


def _name_of(key: str | None) -> str:
    return EVALUATION if key is None else f"{EVALUATION}[{key!r}]"


def _add_embeddings(splits: DatasetDict, encoder: EncoderArguments) -> Path | None:
    """Adds embeddings of the captions to the training rows; returns their stage, None where rows have their own."""
    check_captioned(splits, TRAINING)
    training = DatasetDict({TRAINING: splits[TRAINING]})
    stage = text_embeds_folder(training, encoder, CACHE, source="images", shared=True)
    if stage is not None:
        splits[TRAINING] = join_stage(training, stage, read_stage(stage))[TRAINING]
    return stage


def _built_from(model: AlignedImageClassification, args: AlignmentArguments, options: dict[str, Any]) -> BuiltStudent:
    config = model.config.student_config
    saved = options.get("processing_class") or processor_of(config, warn=args.process_index == 0)
    return BuiltStudent(model, saved, student_processor(config, saved))


def _check(splits: DatasetDict, model: AlignedImageClassification, dim: int | None) -> None:
    for name, split in splits.items():
        expected = model.config.text_embed_dim if name == TRAINING and dim is not None else None
        is_training = {"training": name == TRAINING, "text_embed_dim": expected}
        check_split(split, name, num_labels=model.num_labels, require_labels=False, **is_training)


def _eval_images(evaluated: Any, splits: DatasetDict, built: BuiltStudent) -> Any:
    """The images of evaluation, with datasets that are no raw ones as they are."""
    if isinstance(evaluated, Mapping):
        named = {key: splits.get(_name_of(key)) for key in evaluated}
        return {key: evaluated[key] if split is None else built.eval_images(split) for key, split in named.items()}
    return built.eval_images(splits[EVALUATION]) if EVALUATION in splits else evaluated

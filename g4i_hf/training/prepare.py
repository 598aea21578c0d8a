"""One road from images, labels and captions to what the trainer needs, for `g4i train` and for Python."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from datasets import Dataset, DatasetDict
from transformers import BaseImageProcessor

from .. import columns
from ..cli import say
from ..data.checks import check_captioned, check_split, labels_of
from ..data.classes import class_names, terms_of, with_class_names
from ..data.dataset import CaptionedImages
from ..data.images import rows_to_use
from ..data.loading import standardise
from ..data.stage import join_stage, read_stage
from ..embedding import EmbeddingStage, EncoderArguments, text_embeds_folder
from ..embedding.embed import CACHE, embeds_of_class_names
from ..evaluation.predict import predict
from ..label_model.supervise import Supervised, supervise, warn_of_unused_captions
from ..modeling import AlignedImageClassification
from ..modeling.lora import require_peft
from ..modeling.processing import EvalTransform, student_processor
from ..options import AugmentationArguments, RunArguments, StudentArguments, SupervisionOptions
from .arguments import AlignmentArguments
from .build import BuiltStudent, build_student, check_student, processor_of
from .features import FEATURES, student_features
from .lineage import lineage_of
from .optimization import class_weights_of

logger = logging.getLogger(__name__)

TRAINING, EVALUATION = "train_dataset", "eval_dataset"
NAMES = {TRAINING: "train", EVALUATION: "validation"}


@dataclass
class Embedded:
    """Splits with `text_embeds` of `dim` dimensions (None without)."""

    splits: DatasetDict
    dim: int | None
    folder: Path | None = None  # their stage, if the splits had none
    num_missing: int = 0  # in a dry run, distinct captions without an embedding


@dataclass
class Prepared:
    """
    What the trainer needs, and where it is from.

    Attributes:
        embedded: the splits in use, without unreadable images; training rows perhaps with `soft_labels`.
        images: to train on.
        eval_images: by split.
        supervised: soft labels from captions; None in a dry run without embeddings.
    """

    embedded: Embedded
    built: BuiltStudent
    images: CaptionedImages
    eval_images: dict[str, CaptionedImages]
    supervised: Supervised | None = None

    @property
    def soft_label_weight(self) -> float | None:
        return None if self.supervised is None else self.supervised.plan.soft_label_weight or None


def prepare(
    splits: DatasetDict,
    id2label: dict[int, str],
    student: StudentArguments | BuiltStudent,
    run: RunArguments,
    encoder: EncoderArguments,
    augmentation: AugmentationArguments,
    args: AlignmentArguments,
    *,
    evaluated: list[str],
    folder: Path | None = None,
    made_with: str = "",
    **stage: Any,
) -> Prepared:
    """
    From opened splits to what the trainer needs: embed captions, check the rows, build the student, and add soft
    labels (see [`~g4i_hf.label_model.supervise.supervise`]).

    Args:
        student: options, or a student that exists.
        encoder: of the captions; without a `text_encoder` they are not embedded.
        evaluated: splits to evaluate.
        folder: stores estimates, which another call with the same `made_with` reads.
        stage: `embeddings_dir`, `source` and `shared` of [`~g4i_hf.embedding.text_embeds_folder`].

    Raises:
        ValueError: for invalid data, and for options that contradict each other or the data.
    """
    if isinstance(student, StudentArguments):
        _check_options(student, args)  # before captions are embedded, which can take long
    if args.aligns:
        check_captioned(splits, run.train_split)
    embedded = _embedded(splits, run, encoder, stage)
    _check_rows(embedded, len(id2label), student, run, args, evaluated)
    if isinstance(student, BuiltStudent):
        built, is_pretrained = student, run.image_features == "student"
    else:
        built = build_student(student, augmentation, args.seed, id2label, embedded.dim)
        is_pretrained = student.pretrained
    split, eval_images, supervised = embedded.splits[run.train_split], {}, None
    if not embedded.num_missing:  # otherwise nothing can be estimated
        names = partial(class_name_examples, id2label, encoder, PartialState().device, embedded.dim)
        features = _image_features(split, run, args, is_pretrained, built)
        supervised = _supervised(split, run, args, len(id2label), features, names, folder, made_with)
        split = embedded.splits[run.train_split] = supervised.split
        eval_images = {name: built.eval_images(embedded.splits[name]) for name in evaluated}
    images = CaptionedImages(split, built.train_transform(augmentation), args.seed, args.align_captions)
    if embedded.num_missing:  # any embedding is enough to time steps
        images.use_one_embedding(embedded.dim)
    return Prepared(embedded, built, images, eval_images, supervised)


def _check_options(student: StudentArguments, args: AlignmentArguments) -> None:
    check_student(student)
    if student.use_peft:
        if args.freeze_backbone:
            raise ValueError("use_peft adapts the backbone, and freeze_backbone does not: leave one of both out.")
        require_peft()


def _embedded(splits: DatasetDict, run: RunArguments, encoder: EncoderArguments, where: dict[str, Any]) -> Embedded:
    has_embeds = any(columns.TEXT_EMBEDS in names for names in splits.column_names.values())
    if run.dry_run and encoder.text_encoder and not has_embeds:
        stage = EmbeddingStage(splits, encoder, **where)
        if number := stage.num_to_embed():
            return Embedded(splits, stage.encoder.dim, num_missing=number)
    folder = text_embeds_folder(splits, encoder, **where)
    if folder is not None:
        splits = join_stage(splits, folder, read_stage(folder))
    dim = columns.text_embed_dim_of(splits[run.train_split].features.get(columns.TEXT_EMBEDS))
    return Embedded(DatasetDict(splits), dim, folder)


def _check_rows(
    embedded: Embedded,
    num_labels: int,
    student: StudentArguments | BuiltStudent,
    run: RunArguments,
    args: AlignmentArguments,
    evaluated: list[str],
) -> None:
    """Leave out unreadable images, and raise ValueError for other invalid rows."""
    splits, labels = embedded.splits, dict[str, Any](num_labels=num_labels, require_labels=run.require_labels)
    for name in (run.train_split, *evaluated):
        splits[name] = rows_to_use(splits[name], name, run.on_bad_images)
    dim = embedded.dim or (1 if args.aligns else None)
    if embedded.num_missing:
        dim = None
    elif embedded.dim and isinstance(student, BuiltStudent):
        dim = student.model.config.text_embed_dim
    check_split(splits[run.train_split], run.train_split, text_embed_dim=dim, **labels)
    for name in evaluated:
        check_split(splits[name], name, training=False, **labels)
    if isinstance(args.class_weights, list):
        class_weights_of(args.class_weights, num_labels, splits[run.train_split])  # raises for invalid weights


def _supervised(
    split: Dataset,
    run: RunArguments,
    args: AlignmentArguments,
    num_labels: int,
    image_features: Callable[[], np.ndarray | None] | None,
    class_embeds: Callable[[], np.ndarray | None],
    folder: Path | None,
    made_with: str,
) -> Supervised:
    if args.aligns and run.supervision == "none" and run.unlabelled == "keep":
        warn_of_unused_captions(split)
    supervised = supervise(
        split,
        run,
        num_labels=num_labels,
        seed=args.seed,
        soft_label_weight=args.soft_label_weight,
        image_features=image_features,
        class_embeds=class_embeds,
        class_weights=args.class_weights,
        folder=folder,
        made_with=made_with,
    )
    if supervised.plan.soft_label_weight and args.classification_loss != "cross_entropy":
        raise ValueError("Soft labels need classification_loss: cross_entropy, whose softmax they teach.")
    if args.aligns and args.align_mask == "class" and not (labels_of(supervised.split) >= 0).any():
        logger.warning("align_mask is 'class', but every image learns from soft labels: no classes are masked.")
    return supervised


# --- Views of the training rows --------------------------------------------------------------------------------------


def class_name_examples(
    id2label: dict[int, str], args: EncoderArguments, device: str | torch.device, dim: int
) -> np.ndarray | None:
    """
    [`~g4i_hf.embedding.embed.embeds_of_class_names`], with zeros for a name without meaning, such as `LABEL_3`. Also
    None if captions have not `dim` dimensions, as another encoder has embedded them.
    """
    embeds = embeds_of_class_names(id2label, args, device, "class names beside the captions")
    if embeds is not None and embeds.shape[1] != dim:
        logger.warning("No class names beside the captions: %s has not embedded them.", args.text_encoder)
        return None
    if embeds is not None:
        unnamed = [index for index in sorted(id2label) if not terms_of(id2label[index])]
        embeds[unnamed] = 0
        if 0 < len(unnamed) < len(id2label):
            names = ", ".join(id2label[index] for index in unnamed[:3])
            logger.warning("Names that tell nothing of a class: %s. It is learned from labels alone.", names)
    return embeds


def _image_features(
    split: Dataset, run: RunArguments, args: AlignmentArguments, is_pretrained: bool, built: BuiltStudent
) -> Callable[[], np.ndarray | None] | None:
    """The function that computes image features (N, F) in the main process; None without them."""
    name = run.image_features
    if name == "student" and not is_pretrained:
        raise ValueError("image_features is 'student', but pretrained is false: random weights see nothing.")
    if name == "student" or (name is None and run.supervision == "auto" and is_pretrained):
        return lambda: _features_of_student(built, split, args, run.dry_run)
    if name is not None and name not in split.column_names:
        present = ", ".join(split.column_names)
        raise ValueError(f"image_features is {name!r}, but the data has no such column. Its columns: {present}.")
    if name is None:
        return None
    return lambda: np.asarray(split.with_format("numpy")[name][:], dtype=np.float32)


def _features_of_student(
    built: BuiltStudent, split: Dataset, args: AlignmentArguments, dry_run: bool
) -> np.ndarray | None:
    accelerator = Accelerator(cpu=args.use_cpu)
    if args.freeze_backbone and built.model.takes_features and not dry_run:  # training uses the same features
        images = split.select_columns([columns.IMAGE, columns.IMAGE_ID])
        return student_features(built.model, built.processor, images, Path(args.output_dir) / FEATURES, accelerator)
    what = {"description": "Image features", "output_features": True, "output_image_embeds": False}
    predictions = predict(built.model.eval(), built.processor, split, accelerator, **what)
    built.model.train()
    return predictions and predictions.features


# --- Datasets in memory ----------------------------------------------------------------------------------------------


def is_raw(data: Any) -> bool:
    """Whether rows have images to prepare here, not `pixel_values`."""
    return isinstance(data, Dataset) and data.format["type"] != "custom" and "pixel_values" not in data.column_names


def images_to_evaluate(
    data: Dataset, model: AlignedImageClassification, saved: BaseImageProcessor | None
) -> CaptionedImages:
    """
    Items of rows with `image`, and perhaps `label` by name or number, with the transform and classes of the model.
    """
    config = model.config.student_config
    processor = student_processor(config, saved or processor_of(config, warn=False))
    split = standardise(data, "the dataset", {})
    if columns.LABEL in split.column_names:
        names = [model.config.id2label[index] for index in range(model.num_labels)]
        split = with_class_names({"the dataset": split}, names)["the dataset"]
    return CaptionedImages(split, EvalTransform(processor))


def prepare_in_memory(
    model: AlignedImageClassification | str,
    args: AlignmentArguments,
    training: Dataset,
    text_encoder: str,
    options: Mapping[str, Any],
) -> tuple[Prepared, dict[str, Any], dict[str, Any]]:
    """
    [`prepare`] for an aligned model, or the name of its student, and rows with `image`, `label` and `caption` or
    `text_embeds`. The options are those of `Trainer`, of the student, of the augmentation and of labels from captions.
    Also returns those of `Trainer`, and the lineage as far as it is known. Raises ValueError for invalid data.
    """
    if not is_raw(training):
        raise ValueError(
            "With a student's name, train_dataset is one split with image, label and caption, such as "
            f"load_images('pictures')['train']; it is a {type(training).__name__}."
        )
    of_student, of_images, of_run, of_trainer = _grouped(options, with_student=isinstance(model, str))
    evaluated = of_trainer.get(EVALUATION)
    several = isinstance(evaluated, Mapping)
    by_name = {f"{EVALUATION}[{key!r}]": evaluated[key] for key in evaluated} if several else {EVALUATION: evaluated}
    raw = {TRAINING: training} | {name: split for name, split in by_name.items() if is_raw(split)}
    with columns.named_in_python("Rename the right one to '{name}', by rename_column"):
        splits = DatasetDict({name: standardise(split, name, {}) for name, split in raw.items()})
        splits, id2label = class_names(splits)
    student: StudentArguments | BuiltStudent
    if isinstance(model, str):
        student = StudentArguments(student=model, **of_student)
    else:
        id2label, config = model.config.id2label, model.config.student_config
        splits = with_class_names(splits, [id2label[index] for index in range(model.num_labels)], "of the model")
        saved = of_trainer.get("processing_class") or processor_of(config, warn=args.process_index == 0)
        student = BuiltStudent(model, saved, student_processor(config, saved))
    run = RunArguments(**of_run, train_split=TRAINING, require_labels=False)
    uses_captions = args.aligns or run.supervision != "none"
    if uses_captions:
        check_captioned(splits, TRAINING)
    is_embedded = columns.TEXT_EMBEDS in splits[TRAINING].column_names  # the encoder is unknown here
    encoder = EncoderArguments(text_encoder if uses_captions and not is_embedded else None)
    eval_splits = [name for name in splits if name != TRAINING]
    for name in eval_splits:  # evaluation reads no captions
        texts = {columns.CAPTION, columns.TEXT_EMBEDS} & set(splits[name].column_names)
        splits[name] = splits[name].remove_columns(list(texts))
    stage: dict[str, Any] = {"embeddings_dir": CACHE, "source": "images", "shared": True}
    augmentation = AugmentationArguments(**of_images)
    prepared = prepare(splits, id2label, student, run, encoder, augmentation, args, evaluated=eval_splits, **stage)
    for line in prepared.supervised.plan.reasons:
        say(line)
    by_name |= prepared.eval_images
    of_trainer[EVALUATION] = dict(zip(evaluated, by_name.values(), strict=True)) if several else by_name[EVALUATION]
    rows = {NAMES.get(name, name): split for name, split in prepared.embedded.splits.items()}
    lineage = lineage_of(
        rows, None, student if isinstance(student, StudentArguments) else None, prepared.embedded.folder
    )
    return prepared, of_trainer, lineage


def _grouped(options: Mapping[str, Any], with_student: bool) -> list[dict[str, Any]]:
    """The options of the student, of the augmentation, of labels from captions, and all others."""
    groups = [{field.name for field in fields(cls)} for cls in (StudentArguments, AugmentationArguments)]
    groups.append({field.name for field in fields(SupervisionOptions)})
    if not with_student:  # the model is built: `Trainer` rejects its options
        groups[0], groups[1] = set(), groups[1] - {"image_size", "interpolation", "crop_pct"}
    grouped = [{name: value for name, value in options.items() if name in group} for group in groups]
    return [*grouped, {name: value for name, value in options.items() if name not in set.union(*groups)}]

"""`g4i check`: the content of the data, the accuracy of each view, and labels that the views contradict."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict

from .. import columns
from ..data.census import Census
from ..data.checks import TOO_MANY, are_too_many, bad_images, check_split, labels_of, sampled
from ..data.class_file import first_class_file
from ..data.classes import ClassNames, class_names
from ..data.images import image_paths
from ..data.labels import certain_reviews_of
from ..data.loading import class_file_of, class_words, images_root, load_reviewed, source_of
from ..data.record import Record, describe_equal_images, order_of
from ..data.texts import caption_lists, num_captioned
from ..embedding.embed import with_text_embeds
from ..files import replace_text, spreadsheet_text
from ..fitting.scenes import Scenes, has_groups
from ..label_model import LabelModel, View
from ..label_model.picks import doubtful_labels, suspicious_rows
from ..label_model.views import rows_with_a_view
from ..options import DEFAULT_TEXT_ENCODER, CheckArguments, DataArguments, EncoderArguments
from ..pages import Shown, thumbnail, write_page
from ..training.features import FEATURES
from ..training.supervision import estimates_of
from ..views.encoders import student_named
from ..views.kinds import ANSWER, CAPTION, IMAGE, STUDENT_VIEW
from ..views.making import maker_of, other_views, views_of
from ..views.stages import Inputs
from ..words import estimates_in_words, few_labels_in_words

PAGE, TABLE = "suspicious_labels.html", "suspicious_labels.csv"
SHOWN = 100  # labels on the page, the most suspicious first


def _suspicious(model: LabelModel, labels: np.ndarray, split: Dataset, id2label: dict[int, str]) -> pd.DataFrame:
    """
    The labels (N,) of a split that are not the most probable class given the label and all views, the most suspicious
    first. A table of the `row`, the names of both classes, and the probability of each. `model` was fitted on them.
    """
    rows = suspicious_rows(labels, model.posterior_)
    given, suggested, shown = labels[rows], model.posterior_.argmax(1)[rows], split.select(rows)
    return pd.DataFrame(
        {
            "row": rows,
            "image_id": shown[columns.IMAGE_ID][:],
            "label": list(map(id2label.get, given.tolist())),
            "suggested": list(map(id2label.get, suggested.tolist())),
            "probability": model.posterior_[rows, given].astype(np.float32),
            "probability_of_suggested": model.posterior_[rows, suggested].astype(np.float32),
            "caption": list(map(" / ".join, caption_lists(shown))),
        }
    )


def checked_data(args: CheckArguments, data: DataArguments) -> tuple[DatasetDict, list[str], list[str]]:
    """
    Read every image, label and caption, and remove the page of an earlier check. Returns the splits; a census of the
    files and a table with a line for each split; and why the data cannot be trained on, empty if it can.
    """
    if args.student:
        student_named(args.student)  # whether it may be used
    for name in (PAGE, TABLE):
        (Path(args.check_dir) / name).unlink(missing_ok=True)
    splits, root = load_reviewed(data), images_root(data)
    census = None if root is None else Census(root)
    if census is not None:
        census.add_read(path for split in splits.values() for path, _ in image_paths(split))
    faults: list[str] = []
    left_out: list[str] = []
    id2label: dict[int, str] = {}
    if args.split not in splits:
        faults.append(f"The data has no split {args.split!r} (split). It has: {', '.join(splits)}.")
    try:
        splits, id2label = class_names(splits)
    except ValueError as error:
        faults.append(str(error))
    table = [("split", "images", "classes", "labels", "captions", "unreadable")]
    for name, split in splits.items():
        labels = labels_of(split)
        try:
            check_split(split, name, num_labels=len(id2label), require_labels=False, training=name == args.split)
        except ValueError as error:
            faults.append(str(error))
        if name == args.split and id2label and not (labels >= 0).any() and not num_captioned(split):
            faults.append(f"No image of the split {name!r} has a label or a caption.")
        if bad := dict(bad_images(split, name, sampled(range(len(split))))):
            what, named = (
                f"{len(bad):,} images of the split {name!r} cannot be read",
                [f"  {each}" for each in bad.values()],
            )
            if args.on_bad_images == "error":
                faults += [f"{what}. Replace or remove them, or leave them out with --on_bad_images skip:", *named]
            elif are_too_many(len(bad), split):
                faults += [f"{what}, {TOO_MANY}:", *named]
            else:
                left_out += [f"{what} and are left out:", *named]
                splits[name] = split.select([row for row in range(len(split)) if row not in bad])
        counted = (len(split), len(set(labels[labels >= 0])), (labels >= 0).sum(), num_captioned(split), len(bad))
        table.append((name, *(f"{number:,}" for number in counted)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [census.in_words()] if census is not None else []
    lines += [f"{row[0]:{widths[0]}}  " + "  ".join(map(str.rjust, row[1:], widths[1:])) for row in table]
    lines += left_out
    if not faults:
        lines.append(few_labels_in_words(labels_of(splits[args.split]), list(id2label.values())))
    lines += describe_equal_images(Record.of(splits, id2label.values()).rows)
    if not faults and has_groups(splits):
        lines += _scenes(args, data, dict(splits)).lines(id2label, args.split)
    return splits, list(filter(None, lines)), faults


def write_classes(data: DataArguments) -> str:
    """Writes a first file of the classes, unless there is one, which is then used; a line about it."""
    place = data.classes or class_file_of(data)
    if place is None:
        raise ValueError("classes: the images are in no folder here. Name the file: --classes FILE.")
    file = Path(place)
    if file.exists():
        return f"{file} is there already, and was not changed."
    data.classes, given = None, data.classes
    id2label = class_names(load_reviewed(data))[1]
    text = first_class_file(id2label.values(), class_words(data))
    with open(file, "x", encoding="utf-8") as opened:
        opened.write(text)
    data.classes = given or None
    return f"{file}: {len(id2label):,} classes. Describe what tells each from the others, and run the command again."


def _scenes(
    args: CheckArguments, data: DataArguments, splits: Mapping[str, Dataset], features: np.ndarray | None = None
) -> Scenes:
    """By the column of groups, or else by the features of the images of the only split."""
    of_split = {} if features is None else {args.split: features}
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    return Scenes.of(splits, of_split, data.group_by, Path(args.check_dir) / FEATURES, accelerator)


def _views(
    args: CheckArguments, data: DataArguments, encoder: EncoderArguments, splits: DatasetDict, id2label: dict[int, str]
) -> tuple[Dataset, dict[str, View]]:
    """The split with embedded captions, and its views: those asked for, or what is there and `--student`."""
    out, accelerator = Path(args.check_dir), Accelerator(cpu=not torch.accelerator.is_available())
    wanted = args.views or [CAPTION, ANSWER, *([STUDENT_VIEW] if args.student else [])]
    if args.views and CAPTION in wanted and columns.TEXT_EMBEDS not in splits[args.split].column_names:
        encoder = replace(encoder, text_encoder=encoder.text_encoder or DEFAULT_TEXT_ENCODER)
    if CAPTION in wanted:
        place = Path(encoder.embeddings_dir or out / "embeddings")
        splits = with_text_embeds(splits, encoder, place, source=source_of(data))
    split, features = splits[args.split], {}
    of_columns = {CAPTION: columns.TEXT_EMBEDS, ANSWER: columns.ANSWER}
    unwanted = [column for view, column in of_columns.items() if view not in wanted and column in split.column_names]
    if STUDENT_VIEW in wanted:
        features[IMAGE] = maker_of(STUDENT_VIEW).make(Inputs(split, id2label, out, accelerator, args.student)).values()
    views = views_of(split.remove_columns(unwanted), features, id2label, encoder, accelerator.device)
    return split, views | other_views(wanted, split, id2label, out, accelerator)


def check_labels(
    args: CheckArguments, data: DataArguments, encoder: EncoderArguments, splits: DatasetDict
) -> list[str]:
    """Writes the page and the table of a split into `check_dir`. Returns lines for the terminal."""
    splits, id2label = class_names(DatasetDict({args.split: splits[args.split]}))
    id2label = ClassNames(id2label, class_words(data))
    split, views = _views(args, data, encoder, splits, id2label)
    labels, (digests, _) = labels_of(split), order_of(split)
    features = views[IMAGE].values if IMAGE in views else None
    scenes, of_scenes = _scenes(args, data, {args.split: split}, features), list[str]()
    if not has_groups({args.split: split}):
        of_scenes = list(scenes.lines(id2label, args.split))
    if not views:
        return [
            "To estimate the accuracy of captions and image features, and find labels that look wrong, add --views "
            "caption image:student."
        ]
    if not (labels >= 0).any() and all(view.class_values is None for view in views.values()):
        return [
            *of_scenes,
            f"No image of the split {args.split!r} has a label, and no view is compared with class names.",
        ]
    reviewed = certain_reviews_of(split) != ""
    model = LabelModel(len(id2label), 0).fit(
        views, labels, ids=digests, groups=scenes.numbers[args.split], reviewed=reviewed
    )
    lines = of_scenes + estimates_in_words(estimates_of(model), labels)
    guessed = 1 / len(id2label)
    lines += [
        f"The view {name} is not clearly better than guessing ({guessed:.0%}). Read some, or try another view."
        for name, line in model.report_.items()
        if line["interval"] is not None and line["interval"][0] <= guessed
    ]
    known = int((rows_with_a_view(views) & (labels >= 0)).sum())
    if not known:
        return lines
    table = _suspicious(model, labels, split, id2label)
    lines.append(f"{len(table):,} of {known:,} labels {'is' if len(table) == 1 else 'are'} suspicious.")
    doubtful = doubtful_labels(model, views, np.where(reviewed, -1, labels)) - len(table)
    if doubtful > 0 and args.split == "train":
        what = "1 more label differs" if doubtful == 1 else f"{doubtful:,} more labels differ"
        by = f" --group_by {shlex.quote(data.group_by)}" if data.group_by else ""
        command = f"g4i label {shlex.quote(data.dataset_name)} --pick wrong{by}"
        lines.append(f"{what} from the likeliest class, but may be right. To look: {command}")
    _write_labels(args, split, table, list(views), lines)
    out = Path(args.check_dir)
    return [*lines, f"Page with images: {out / PAGE}", f"All suspicious labels: {out / TABLE}"]


def _write_labels(
    args: CheckArguments, split: Dataset, table: pd.DataFrame, views: list[str], lines: list[str]
) -> None:
    out = Path(args.check_dir)
    out.mkdir(parents=True, exist_ok=True)
    cells = table.drop(columns="row").map(lambda cell: spreadsheet_text(cell) if isinstance(cell, str) else cell)
    replace_text(out / TABLE, cells.to_csv(index=False, float_format="%.4f"))
    by_views = "captions say" if views == [CAPTION] else "the views say"
    shown = [
        Shown(
            picture=thumbnail(split, int(line.row)),
            title=f"{line.image_id}: {line.label}",
            lines=[
                ("", line.caption),
                ("soft", f"{by_views}: {line.suggested} ({line.probability_of_suggested:.0%})"),
                ("wrong", f"the label {line.label} is right with probability {line.probability:.1%}"),
            ],
        )
        for line in table.head(SHOWN).itertuples()
    ]
    write_page(out / PAGE, f"Suspicious labels of {args.split}", paragraphs=lines, shown=shown)

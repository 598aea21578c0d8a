"""`g4i check`: labels that captions contradict, as a page with images and a CSV file, the most suspicious first."""

from pathlib import Path

import numpy as np
import pandas as pd
from datasets import DatasetDict

from .. import columns
from ..captioning.report import Shown, thumbnail, write_page
from ..data.loading import class_names, load_data, source_of
from ..data.stage import join_stage, read_stage
from ..embedding import text_embeds_folder
from ..files import replace_text
from ..options import CheckArguments, DataArguments, EncoderArguments
from ..supervision import CaptionClassifier
from ..supervision.supervise import CaptionedRows

PAGE, TABLE = "suspicious_labels.html", "suspicious_labels.csv"


def suspicious_labels(
    text_embeds: np.ndarray, labels: np.ndarray, num_labels: int, seed: int = 0
) -> tuple[pd.DataFrame, CaptionClassifier]:
    """
    Finds labels that are not the most probable class given the label and the caption. Caption probabilities are out of
    fold.

    Args:
        text_embeds: (N, D).
        labels: (N,) class indices; negative for rows without a label.

    Returns:
        A table with the columns `row`, `label` and `suggested` (class indices), `probability` (of the label being
        right) and `probability_of_suggested`, the most suspicious first; and the classifier.
    """
    classifier = CaptionClassifier(num_labels, seed).fit(text_embeds, labels)
    posterior = classifier.posterior(classifier.out_of_fold_, labels)
    suggested = posterior.argmax(1)
    rows = np.flatnonzero((labels >= 0) & (suggested != labels))
    found = pd.DataFrame(
        {
            "row": rows,
            "label": labels[rows],
            "suggested": suggested[rows],
            "probability": posterior[rows, labels[rows]],
            "probability_of_suggested": posterior[rows, suggested[rows]],
        }
    )
    return found.sort_values(["probability", "row"], ignore_index=True), classifier


def check_labels(args: CheckArguments, data: DataArguments, encoder: EncoderArguments) -> list[str]:
    """
    Writes the page and the table of a split into `check_dir`.

    Returns:
        Lines for the terminal.

    Raises:
        ValueError: for data without labels, or without embeddings and a text encoder.
    """
    splits = load_data(data)
    if args.split not in splits:
        raise ValueError(f"The data has no split {args.split!r} (split). It has: {', '.join(splits)}.")
    splits, id2label = class_names(DatasetDict({args.split: splits[args.split]}))
    folder = Path(encoder.embeddings_dir or Path(args.check_dir) / "embeddings")
    stage = text_embeds_folder(splits, encoder, folder, source=source_of(data))
    if stage is not None:
        splits = join_stage(splits, stage, read_stage(stage))
    split = splits[args.split]
    if columns.TEXT_EMBEDS not in split.column_names:
        raise ValueError("The captions are not embedded: give --text_encoder, or a folder of g4i embed.")
    captioned = CaptionedRows.of(split)
    table, classifier = suspicious_labels(captioned.text_embeds(), captioned.labels, len(id2label))
    table["row"] = captioned.rows[table["row"]]
    chosen = split.select(table["row"])
    captions = chosen[columns.CAPTION][:] if columns.CAPTION in split.column_names else [""] * len(chosen)
    table["caption"] = [" / ".join(caption) if isinstance(caption, list) else caption for caption in captions]
    table["image_id"] = chosen[columns.IMAGE_ID][:]
    for name in ("label", "suggested"):
        table[name] = [id2label[int(label)] for label in table[name]]
    out = Path(args.check_dir)
    out.mkdir(parents=True, exist_ok=True)
    order = ["image_id", "label", "suggested", "probability", "probability_of_suggested", "caption"]
    replace_text(out / TABLE, table[order].to_csv(index=False, float_format="%.4f"))
    lines = _estimates(classifier, len(table), int((captioned.labels >= 0).sum()))
    shown = [
        Shown(
            picture=thumbnail(split, int(line.row)),
            caption=line.caption,
            title=f"{line.image_id}: {line.label}",
            notes=[f"captions say: {line.suggested} ({line.probability_of_suggested:.0%})"],
            doubts=[f"the label {line.label} is right with probability {line.probability:.1%}"],
        )
        for line in table.head(args.num_pictures).itertuples()
    ]
    write_page(out / PAGE, f"Suspicious labels of {args.split}", paragraphs=lines, shown=shown)
    return [*lines, f"Page with images: {out / PAGE}", f"All suspicious labels: {out / TABLE}"]


def _estimates(classifier: CaptionClassifier, count: int, labelled: int) -> list[str]:
    lines = []
    if classifier.accuracy_ is not None:
        low, high = classifier.label_noise_interval_
        lines.append(f"Captions tell the class of {classifier.accuracy_:.0%} of held-out images.")
        noise = f"{classifier.label_noise_:.1%} of the labels are wrong"
        lines.append(f"About {noise} (95% interval {low:.1%} to {high:.1%}).")
    lines.append(f"{count:,} of {labelled:,} labels are suspicious.")
    return lines

"""`g4i predict`: a line for each image, with its class and whether that is sure enough."""

import itertools
import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from .. import priors
from ..data.record import Record
from ..data.shards import Images, Shards
from ..files import replace_text
from ..names import ANSWER, ASK, NONE, USUAL_PRECISION
from ..options import PredictArguments
from ..options.caller import called_from_python
from ..output import progress_bar
from .another_month import NewImages, Summary, sampled_rows
from .classifier import Classifier, open_classifier
from .images import images_of
from .page import write_predictions_page
from .writing import DIGEST, ROWS_AT_ONCE, SAMPLED, Predictions, as_written, numbers_of, schema_of

SUMMARY = "summary.json"  # beside the predictions


def predict(
    model: str | Path,
    images: Any,
    *,
    split: str | None = None,
    image: str | None = None,
    precision: float | None = None,
    top: int = 1,
    batch_size: int | None = None,
) -> Dataset:
    """
    Predict the class of each image.

    Args:
        model: folder of `g4i fit` or `g4i train`, a release, or an image classifier of the Hub.
        images: folder, searched with its subfolders; `.txt` file with a path per line; dataset on disk, of the Hub or
            in memory; or a list of paths and PIL images.
        split: of a dataset with several.
        image: name of its column of images, if it differs.
        precision: answer only where so many answers are right: 0.9, 0.95 or 0.99; by default 0.95, or the highest that
            has a threshold.
        top: number of likeliest classes.
        batch_size: images per batch; by default as many as are fast here.

    Returns:
        A row an image, in their order. Its columns are `file_name`, `label`, `probability` and `decision`, which is
            `answer`, `ask` for a person, or `none` where no class seems to fit; with `top` also `label_2`,
            `probability_2` and so on; and `reason`, why an image cannot be read.

    Raises:
        FileNotFoundError: for a model or images that are not there.
        ValueError: for a precision that the classifier has no threshold for.
    """
    with called_from_python({"image": image}, "{}='...'"):
        classifier, opened = open_classifier(model), images_of(images, split, image)
        threshold = (classifier.threshold(precision) or {}).get("threshold")
        bar = progress_bar(opened.rows(), total=len(opened), unit="image", desc="Predicting", leave=False)
        return Dataset.from_list([*map(as_written, classifier.predict(bar, top, threshold, batch_size))])


def predict_into_file(args: PredictArguments, say: Callable[[str], object]) -> None:
    summary_file = Path(args.predictions).with_name(SUMMARY)
    files = {"predictions": Path(args.predictions), "summary": summary_file}
    files |= {"page": Path(args.page)} if args.page else {}
    for name, file in files.items():
        _check_place(name, file)
    _check_is_ours(summary_file)
    images = images_of(args.images, args.split, args.image_column)
    classifier = open_classifier(args.model)
    made_of = _made_of(args, classifier)
    known, threshold = classifier.threshold(args.precision), made_of["the threshold"]
    made_of |= {"the images": images.digest}
    predictions = Predictions(args.predictions, made_of)
    done, changed = predictions.begin(args.overwrite, images.digest_of)
    if changed:
        say(f"Changed since the last start: {', '.join(changed)}. All images are predicted again.")
    if done:
        say(f"{done:,} of {len(images):,} images were predicted before.")
    counts = Counter[str]()
    sampled = {row - done for row in sampled_rows(len(images))}
    rows = classifier.predict(images.rows(done), args.top, threshold, args.batch_size, sampled)
    shown: dict[str, Any] = {
        "total": len(images),
        "initial": done,
        "unit": "image",
        "desc": "Predicting",
        "leave": False,
    }
    for _ in progress_bar(predictions.add(rows), **shown):
        pass
    new, learned = NewImages(), _digests_of_training(Path(args.model))
    for number, row in enumerate(predictions.rows()):
        counts["learned"] += row[DIGEST] in learned
        if row.get(SAMPLED) and row[DIGEST] not in learned:
            new.add(row["file_name"], number, numbers_of(row))
        counts[row["decision"]] += 1
        counts["unreadable"] += bool(row["reason"])
    summary, label = Summary.of(classifier.fitted_on, new, classifier.classes), _command_of_label(args)
    if args.page:
        title, most = f"{Path(args.images).name}: predictions", [new.rows[place] for place in summary.most]
        write_predictions_page(args.page, images, predictions.rows(), classifier.classes, title, most)
    of_file = {"predictions": Path(args.predictions).name} | summary.as_json(new.names, label)
    replace_text(summary_file, json.dumps(of_file, indent=2, ensure_ascii=False) + "\n")
    predictions.finish()
    precision = args.precision or classifier.usual_precision()
    say("\n".join([*_in_words(precision, known, counts), *summary.lines(new.names, label)]))
    say("\n".join(f"{name}: {file}" for name, file in files.items()))


def _made_of(args: PredictArguments, classifier: Classifier) -> dict[str, Any]:
    """What the answer to an image depends on."""
    threshold = (classifier.threshold(args.precision) or {}).get("threshold")
    return {"the model": classifier.identity, "the option top": args.top, "the threshold": threshold}


def predict_shards(args: PredictArguments, say: Callable[[str], object]) -> None:
    """A Parquet of predictions for each shard of this task, with the columns of [`predict_into_file`]'s."""
    shards, classifier = Shards(args, args.image_column), open_classifier(args.model)
    made_of, schema = _made_of(args, classifier), schema_of(classifier.columns(args.top))

    def predicted(images: Images) -> pa.Table:
        rows = map(as_written, classifier.predict(images, args.top, made_of["the threshold"], args.batch_size))
        parts = [schema.empty_table()]
        while part := [*itertools.islice(rows, ROWS_AT_ONCE)]:
            parts.append(pa.Table.from_pylist(part, schema))
        return pa.concat_tables(parts)

    shards.run(made_of, predicted, say, args.overwrite)


def _in_words(precision: float, known: dict[str, Any] | None, counts: Counter) -> Iterator[str]:
    left = counts[ASK] - counts["unreadable"]
    total = counts[ANSWER] + left + counts[NONE]
    if known is None:
        yield f"{counts[ANSWER]:,} images are answered, however unsure: no threshold is known for this classifier."
    else:
        if precision < USUAL_PRECISION:
            yield f"No threshold is known for {USUAL_PRECISION:.0%}."
        yield (
            f"At {precision:.0%} it answers {counts[ANSWER]:,} of {total:,} images "
            f"({counts[ANSWER] / max(total, 1):.0%}); {left:,} are left to you (decision: ask)."
        )
        if not known["certain"]:
            yield "That threshold is unreviewed: too few judged images tell that so many answers are right."
    if none := counts[NONE]:
        yield f"{none:,} seem to show none of the classes (decision: none)."
    if unreadable := counts["unreadable"]:
        are = "images" if unreadable > 1 else "image"
        yield f"Not read: {unreadable:,} {are}, see the column reason."
    if learned := counts["learned"]:
        were = "were training images" if learned > 1 else "was a training image"
        yield f"{learned:,} of the images {were}: it is surer of those, so what it promises is about new ones alone."


def _digests_of_training(model: Path) -> set[str]:
    """Of the images that a folder of a fit or a run was trained on; empty for any other classifier."""
    record = Record.read(model)
    return set() if record is None else record.learned()


def _command_of_label(args: PredictArguments) -> str | None:
    """That asks for a random sample of the images; None for what `g4i label` does not open: files, other splits."""
    if Path(args.images).is_file() or args.split not in (None, "train"):
        return None
    words = ["g4i", "label", args.images, "--pick", "gold", "--n", str(priors.MIN_NEW_IMAGES), "--run", args.model]
    return shlex.join(words + (["--image_column", args.image_column] if args.image_column else []))


def _check_is_ours(file: Path) -> None:
    """A ValueError for a file that `g4i predict` did not write, which would be lost."""
    if file.is_file():
        try:
            is_ours = {"pool_shares", "differs", "expected_accuracy"} <= json.loads(file.read_bytes()).keys()
        except (ValueError, AttributeError):
            is_ours = False
        if not is_ours:
            raise ValueError(f"{file} is not by g4i predict, which would replace it. Choose another folder with -o.")


def _check_place(name: str, file: Path) -> None:
    """Before anything is predicted: an OSError where the file cannot be written."""
    if file.is_dir():
        raise IsADirectoryError(f"{name} is {str(file)!r}, which is a folder. Name a file in it.")
    above = file.resolve().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise PermissionError(f"{name} is {str(file)!r}, but {above} cannot be written to. Choose another folder.")

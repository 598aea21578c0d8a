"""Makes views: those that `g4i embed --view` names, and those that `g4i fit` or `g4i check` take beside their own."""

import json
import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict
from scipy.special import softmax

from .. import columns
from ..data.checks import labels_of
from ..data.classes import ClassNames, ClassWords, class_names, matched_answers, words_of
from ..data.loading import check_has_split, standardise
from ..data.opening import STAGE_FILE
from ..data.record import content_digest
from ..data.stage import Source
from ..data.texts import mean_embeds, values_of
from ..embedding.embed import with_text_embeds
from ..label_model import View
from ..label_model.views import has_value
from ..names import folder_digest
from ..options import DEFAULT_TEXT_ENCODER, EncoderArguments
from ..training.prepare import class_name_examples
from .kinds import ANSWER, CAPTION, IMAGE, KINDS, OWN_VIEWS, check_view, kind_of
from .stages import VIEWS, Inputs, Maker, NewView, as_view, read_view, view_stage, write_view

logger = logging.getLogger(__name__)


def maker_of(view: str) -> Maker:
    """Of the name of a view."""
    module, _, maker = KINDS[view.partition(":")[0]].maker.partition(":")
    return getattr(import_module(f".{module}", __package__), maker)(view)


# --- g4i fit and check -----------------------------------------------------------------------------------------------


def default_views(output_dir: str | Path) -> list[str]:
    """The captions, answers and features of the student, and folders of other views that are there."""
    made = [path.parent for path in sorted(Path(output_dir).glob(f"{VIEWS}/*/{STAGE_FILE}"))]
    return [*OWN_VIEWS, *(str(folder) for folder in made if view_stage(folder)["view"] not in OWN_VIEWS)]


def checked_view(view: str) -> bool:
    """Whether a view has class names. A ValueError for one that is not there, or may have learned the labels."""
    return view_stage(view)["class_names"] is not None if Path(view).is_dir() else maker_of(view).check()


def digests_of(views: list[str], training: Dataset) -> dict[str, str]:
    """What a result with these views depends on beside their names, by its name in messages."""
    digests = {}
    for view in views:
        if view not in OWN_VIEWS and Path(view, STAGE_FILE).is_file():
            digests[f"the view {view}"] = folder_digest(view)
        elif kind_of(view):
            digests |= maker_of(view).digests(training)
    return digests


def other_views(
    views: list[str],
    images: Dataset,
    id2label: dict[int, str],
    output_dir: str | Path,
    accelerator: Accelerator,
    given: Mapping[str, View] | None = None,
) -> dict[str, View]:
    """By name, the views that are not `OWN_VIEWS`. Class names are there in the first process."""
    made = dict(given or {})
    for view in views:
        if view in OWN_VIEWS:
            continue
        if Path(view).is_dir():
            name, values = read_view(view, images, id2label)
        else:
            new = maker_of(view).make(Inputs(images, id2label, output_dir, accelerator))
            name, values = new.name, new.view()
        if name in made:
            raise ValueError(f"Two views are called {name!r} (views). Leave one out.")
        made[name] = values
    return made


def named_views(views: str | Path | View | Sequence[str | Path | View]) -> tuple[list[str], dict[str, View]]:
    """
    Names and folders, and by name the views: their source, numbered where several share one. TypeError for what is no
    view.
    """
    names: list[str] = []
    given: dict[str, View] = {}
    for number, view in enumerate([views] if isinstance(views, (str, Path, View)) else views, 1):
        if isinstance(view, (str, Path)):
            names.append(str(view))
        elif isinstance(view, View):
            name = view.source or f"view {number}"
            given[f"{name} {number}" if name in (*given, *OWN_VIEWS, IMAGE) else name] = view
        else:
            what = f"views holds a {type(view).__name__}"
            raise TypeError(f"{what}: it takes names, folders of g4i embed and View(...), in a list.")
    return names, given


# --- g4i embed -------------------------------------------------------------------------------------------------------


def embed_view(
    images: Dataset | DatasetDict,
    view: str,
    output_dir: str | Path,
    *,
    text_encoder: str = DEFAULT_TEXT_ENCODER,
    student: str | None = None,
    source: str | Source = "images",
    accelerator: Accelerator | None = None,
    words: Mapping[str, ClassWords] | None = None,
) -> Path:
    """
    Makes one view of the training images as a stage, as `g4i embed --view` does. The same view of the same images and
    classes is made once.

    Args:
        images: rows with `image` and, where classes are known, `label`; or splits, of which `train` is embedded.
        view: such as `caption` or `image:student`; `g4i embed --help` lists all forms.
        output_dir: the stage is a folder in its `views`.
        text_encoder: of captions.
        student: of `image:student`; None: that of `g4i fit`.
        source: what the stage is made from, for its `stage.json`.
        words: synonyms and descriptions by class, see [`~g4i_hf.data.classes.ClassWords`].

    Returns:
        The folder of the stage, for `g4i fit --views`.

    Raises:
        ValueError, OSError: for images without what the view needs, or an encoder that cannot be loaded.
    """
    accelerator = accelerator or Accelerator(cpu=not torch.accelerator.is_available())
    training, id2label = _training(images, view)
    id2label = ClassNames(id2label, words or {})
    inputs = Inputs(training, id2label, output_dir, accelerator, student, EncoderArguments(text_encoder), source)
    new = maker_of(view).make(inputs)
    return write_view(new, training, id2label, output_dir, Source.of(source), accelerator.is_main_process)


def _training(images: Dataset | DatasetDict, view: str) -> tuple[Dataset, dict[int, str]]:
    """The training images, and the names of their classes where a view needs or has them."""
    check_view(view)
    splits = images if isinstance(images, dict) else {"train": images}
    check_has_split(splits, "train")
    splits = DatasetDict({name: standardise(split, name, {}) for name, split in splits.items()})
    maker = maker_of(view)
    maker.check()
    id2label: dict[int, str] = {}
    if not maker.is_computed or any(columns.LABEL in split.column_names for split in splits.values()):
        splits, id2label = class_names(splits)
    return splits["train"], id2label


# --- Captions and answers --------------------------------------------------------------------------------------------


class Captions(Maker):
    def make(self, inputs: Inputs) -> NewView:
        training, place = DatasetDict(train=inputs.images), Path(inputs.output_dir) / "embeddings"
        splits = with_text_embeds(training, inputs.encoder, place, source=inputs.source, shared=True)
        captions = telling_captions(splits["train"], inputs.id2label, inputs.encoder, inputs.accelerator.device)
        return NewView.of(self.view, captions)


class Answers(Maker):
    def make(self, inputs: Inputs) -> NewView:
        answers = answers_of(inputs.images, inputs.id2label)
        return NewView.of(self.view, None if answers is None else View.answers(answers, len(inputs.id2label)))


def views_of(
    split: Dataset,
    features: Mapping[str, np.ndarray],
    id2label: dict[int, str],
    encoder: EncoderArguments | None,
    device: torch.device,
) -> dict[str, View]:
    """
    Args:
        split: with `text_embeds`, where captions are embedded, and `answer`, where a model was asked for the class.
        features: (N, F) of its images, by name of the view.
        encoder: of the captions, for the names of the classes; None: it is not known.
    """
    views, has_captions = {}, columns.TEXT_EMBEDS in split.column_names
    if has_captions and (captions := telling_captions(split, id2label, encoder, device)) is not None:
        views[CAPTION] = captions
    answers = answers_of(split, id2label)
    if answers is not None and len(np.unique(answers[answers >= 0])) > 1:  # else they predict nothing
        views[ANSWER] = View.answers(answers, len(id2label))
    return views | {name: as_view(name, each, None) for name, each in features.items()}


def telling_captions(
    split: Dataset, id2label: dict[int, str], encoder: EncoderArguments | None, device: torch.device
) -> View | None:
    """The view of rows with `text_embeds`; None where all captions are equal, so that they predict nothing."""
    names, dim = None, columns.text_embed_dim_of(split.features[columns.TEXT_EMBEDS])
    if encoder is not None:
        names = class_name_examples(id2label, encoder, device, dim)
    view = View(mean_embeds(split), names, self_trains=False)
    texts = view.values[has_value(view.values)]
    return view if (texts != texts[:1]).any() else None


def answers_of(split: Dataset, id2label: dict[int, str]) -> np.ndarray | None:
    """(N,) class indices, negative without one; None where no answer names a class."""
    if columns.ANSWER not in split.column_names:
        return None
    names = [id2label[index] for index in sorted(id2label)]
    texts = split[columns.ANSWER][:]
    if (words := words_of(id2label)) and columns.ANSWER_TEXT in split.column_names:  # perhaps a synonym that is new
        texts = [
            text if answer is None else answer for answer, text in zip(texts, split[columns.ANSWER_TEXT], strict=True)
        ]
    answers = matched_answers(texts, names, words)
    return answers if (answers >= 0).any() else None


# --- Scores: class probabilities, percentages, votes or logits of another model --------------------------------------

NOT_WHOLE = 0.01  # part by which the sum of a row may differ from that of the others: judgement, for rounded shares
ALMOST_ALL = 0.9  # of the rows show what the numbers are: judgement; of logits of real encoders, 12% have one sum
MOST_LOGITS = 100  # between the classes of an image: judgement; CLIP and SigLIP stay below 30
MANY_LAST = 4, 10  # labels with the lowest number, in times of those with the highest, and more: judgement
TINY = 1e-6  # below 0 or above 1 by rounding: about ten times the precision of float32


class Scores(Maker):
    """
    `scores:COLUMN`, (C,) probabilities, percentages, votes or other shares, or logits; null, NaN or zeros alone:
    unknown. ValueError for others.
    """

    def digests(self, images: Dataset) -> dict[str, str]:
        there = self.what in images.column_names
        return {f"the scores {self.what}": content_digest(json.dumps(images[self.what][:]).encode())} if there else {}

    def make(self, inputs: Inputs) -> NewView:
        split, num_labels, what = inputs.images, len(inputs.id2label), f"View {self.view!r} (views)"
        if self.what not in split.column_names:
            raise ValueError(f"{what}: the data has no such column. Its columns: {', '.join(split.column_names)}.")
        rows = [[np.nan] * num_labels if row is None else row for row in values_of(split, self.what)]
        for number, row in enumerate(rows):
            if not isinstance(row, list) or len(row) != num_labels:
                given = f"{len(row)} numbers" if isinstance(row, list) else repr(row)[:40]
                wanted = (
                    f"a list of {num_labels} numbers is wanted, one a class in their order, those of labels.jsonl last"
                )
                raise ValueError(f"{what}, row {number}: {given}; {wanted}.")
        scores = np.array(rows, dtype=np.float64)
        has = np.isfinite(scores).all(1)
        if not np.isnan(scores[~has]).all():
            raise ValueError(
                f"{what}, row {np.flatnonzero(~has)[0]}: some numbers are NaN or infinite. Give null there."
            )

        def named(row: int) -> str:
            name = f" ({split[columns.IMAGE_ID][row]!r})" if columns.IMAGE_ID in split.column_names else ""
            return f"row {row}{name}"

        zeros = np.flatnonzero((scores == 0).all(1))
        if len(zeros):
            are = f"{len(zeros):,} of {len(scores):,} rows are all zeros and count as unknown"
            logger.warning("%s: %s, the first is %s.", what, are, named(int(zeros[0])))
            scores[zeros], has[zeros] = np.nan, False
        known, labels = np.flatnonzero(has), labels_of(split)[has]
        if fault := _fault_of_scores(scores[known], labels):
            row, why = fault
            numbers = ", ".join(f"{number:.4g}" for number in rows[known[row]][:5]) + ", ..." * (num_labels > 5)
            raise ValueError(f"{what}, {named(int(known[row]))}: {numbers}; {why}")
        scores[known] = _probabilities(scores[known])
        values = scores.astype(np.float32), np.eye(num_labels, dtype=np.float32)
        return NewView.of(self.view, View(*values, self_trains=False))


def _whole_of(scores: np.ndarray) -> float | None:
    """What almost all rows (n, C) sum to, be it 1, 100 or a number of votes; None where they are no shares."""
    whole = float(np.median(scores.sum(1))) if len(scores) else 0.0
    is_rounded = (scores == scores.round()).all()
    off = max(NOT_WHOLE * whole, np.sqrt(scores.shape[1]) if is_rounded else 0.0)
    are_shares = (scores.min(1) > -TINY) & (np.abs(scores.sum(1) - whole) <= off)
    return whole if len(scores) and are_shares.mean() >= ALMOST_ALL else None


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """(n, C). A row of shares counts by its own sum; numbers from 0 to 1 are shares too, as few logits would be."""
    if _whole_of(scores) is None and (scores.min(initial=0) < -TINY or scores.max(initial=0) > 1 + TINY):
        return softmax(scores, axis=1)
    shares = scores.clip(0)
    return shares / shares.sum(1, keepdims=True)


def _fault_of_scores(scores: np.ndarray, labels: np.ndarray) -> tuple[int, str] | None:
    """The row and the fault of numbers (n, C) that are no scores, with labels (n,), negative where unknown."""
    whole, lowest, highest = _whole_of(scores), scores.min(1), scores.max(1)
    if whole is not None:
        if len(odd := np.flatnonzero((lowest < -TINY) | (highest > whole * (1 + NOT_WHOLE) + 1))):
            return int(odd[0]), f"the other rows are shares that sum to {whole:.4g}. Correct it, or give null."
    elif len(scores) and lowest.min() >= 0 and np.median(highest - lowest) > MOST_LOGITS:
        why = "neither shares of a whole nor logits, which would be sure of every image. Give probabilities."
        return int(np.argmax(highest - lowest > MOST_LOGITS)), why
    given = np.flatnonzero(labels >= 0)
    of_label, ordered = scores[given, labels[given]], np.sort(scores[given], axis=1)
    is_last = (of_label == ordered[:, 0]) & (of_label < ordered[:, 1])
    times, more = MANY_LAST
    if is_last.sum() > times * (of_label == ordered[:, -1]).sum() + more:  # no honest scores, however bad
        where = f"the given label has the lowest number in {is_last.sum():,} of {len(given):,} labelled rows"
        return int(given[is_last.argmax()]), f"{where}. Higher must be likelier: negate distances."
    return None

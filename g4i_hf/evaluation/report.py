"""The report of `g4i evaluate`: one HTML file with metrics and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from .. import columns
from ..options import aligns, learned_from_captions
from ..pages import Shown, thumbnail, write_page
from ..training.run_folder import read_options
from ..words import ends_in_words
from .classes import SHOWN_IN_MATRIX, confusion_matrix, matrix_for_page, of_classes
from .comparison import OF_CAPTIONS, ComparisonRow, shown_names
from .metrics import speed_text
from .predict import Predictions, captions_of, texts_of

# At most as many are shown
CAPTIONED, NEAREST, DIFFERING, MISTAKES = 6, 3, 18, 6
LONGEST = 150  # characters of a caption


def write_report(
    path: str | Path,
    rows: list[ComparisonRow],
    runs: dict[str, Path],
    options: dict[str, Any],
    splits: DatasetDict,
    predictions: dict[str, dict[str, Predictions]],
    id2label: dict[int, str],
    results: Mapping[str, dict[str, Any]],
    weights: str = "raw",
    formats: Sequence[Any] = (),
) -> None:
    """
    Write the page, a single HTML file with its images; without a baseline it has no comparisons, and a section that
    cannot be drawn says why. `options` are those of the aligned run, `formats` those of its release, `predictions`
    those of each run and split, `results` (`all_results.json`) those of each run. Images are from `test`, otherwise
    from the first split with labels.
    """
    labelled = [name for name in splits if (predictions["aligned"][name].labels >= 0).any()]
    name = next(name for name in ("test", *labelled, *splits) if name in (labelled or splits))
    order = [run for run in ("baseline", "aligned") if run in runs]
    names = shown_names(options)
    shown = ShownSplit(splits[name], {run: predictions[run][name] for run in order}, id2label, names)
    both = "baseline" in runs and bool(labelled)
    compared = f"{names['aligned'].capitalize()}, and on labels only"
    counts = confusion_matrix(shown.labels, shown.predictions["aligned"].predicted, len(id2label))
    write_page(
        path,
        compared if "baseline" in runs else f"The student {runs['aligned'].name}",
        "report.html.j2",
        names=names,
        interval=lambda run, split: ends_in_words(results[run][f"{split}_accuracy_interval"]),
        rows=[row for row in rows if row.measure.group != OF_CAPTIONS],
        of_captions=[row for row in rows if row.measure.group == OF_CAPTIONS],
        worst=of_classes(counts, id2label)[:SHOWN_IN_MATRIX] if labelled else None,
        matrix=matrix_for_page(counts, id2label) if labelled else None,
        accuracies=[row for row in rows if row.figure == "accuracy"],
        labelled={split: int((one.labels >= 0).sum()) for split, one in predictions["aligned"].items()},
        runs=order,
        split=name,
        images=len(splits[name]),
        classes=len(id2label),
        captions=caption_cards(shown) if aligns(options) else None,
        differing=differing_cards(shown) if both else None,
        mistakes=mistake_cards(shown) if labelled else None,
        speed=speed_text(results["aligned"]),
        formats=formats,
        taught=learned_from_captions(read_options(runs["baseline"])) if "baseline" in runs else None,
        options=options,
        weights=weights,
        seed=options.get("seed", 42),
    )


# --- The content of the sections, as plain values for the template ---------------------------------------------------


@dataclass
class ShownSplit:
    """A split and the predictions of the runs for it."""

    split: Dataset
    predictions: dict[str, Predictions]  # of `aligned` and perhaps `baseline`, which comes first
    id2label: dict[int, str]
    names: dict[str, str]  # of the runs, for users

    @property
    def labels(self) -> np.ndarray:
        return self.predictions["aligned"].labels

    def name(self, label: int) -> str:
        return self.id2label.get(int(label), "unlabelled")

    def prediction(self, run: str, row: int) -> tuple[str, str]:
        """A line: the class that a run predicts for a labelled image, and its score."""
        of_run = self.predictions[run]
        is_right = of_run.predicted[row] == self.labels[row]
        text = f"{self.names[run]}: {self.name(of_run.predicted[row])} {'✓' if is_right else '✗'}"
        return "right" if is_right else "wrong", f"{text} {of_run.score[row]:.0%}"

    def card(self, row: int, lines: list[tuple[str, str]]) -> Shown:
        return Shown(thumbnail(self.split, int(row)), self.name(self.labels[row]), lines)

    def predicted(self, row: int, first: str = "") -> Shown:
        """A card with the prediction of each run, that of `first` before the others."""
        runs = sorted(self.predictions, key=lambda run: run != first)
        return self.card(row, [self.prediction(run, row) for run in runs])

    def right(self, run: str) -> np.ndarray:
        return self.predictions[run].predicted == self.labels


def caption_cards(shown: ShownSplit) -> list[Shown] | None:
    """A few images with the nearest captions in the aligned run; None for a split without captions."""
    predictions = shown.predictions["aligned"]
    texts = texts_of(shown.split, predictions) if columns.CAPTION in shown.split.column_names else None
    if texts is None:
        return None
    captions, cards = captions_of(shown.split, texts), []
    for row in np.sort(np.random.default_rng(0).permutation(len(shown.split))[:CAPTIONED]).tolist():
        own_captions = captions[texts.starts[row] : texts.starts[row + 1]]
        cosines = texts.embeds @ predictions.image_embeds[row]
        nearest: dict[str, float] = {}
        for place in np.argsort(-cosines, kind="stable").tolist():
            nearest.setdefault(captions[place], float(cosines[place]))
            if len(nearest) == NEAREST:
                break
        lines = [(text in own_captions, f"{nearest[text]:z.2f} {shortened(text)}") for text in nearest]
        cards.append(shown.card(row, [("right", f"{line} (own)") if own else ("", line) for own, line in lines]))
    return cards


def differing_cards(shown: ShownSplit) -> dict[str, Any]:
    """The number of images that exactly one run classifies correctly, and cards of both kinds in proportion."""
    aligned, baseline = shown.right("aligned"), shown.right("baseline")
    mended, broken = np.flatnonzero(aligned & ~baseline), np.flatnonzero(baseline & ~aligned)
    number = round(DIFFERING * len(mended) / max(1, len(mended) + len(broken)))
    rng = np.random.default_rng(0)
    rows = [*rng.permutation(mended)[:number].tolist(), *rng.permutation(broken)[: DIFFERING - number].tolist()]
    return {"mended": len(mended), "broken": len(broken), "cards": [shown.predicted(row) for row in rows]}


def mistake_cards(shown: ShownSplit) -> dict[str, list[Shown]]:
    """The mistakes of each run with the highest scores, with the prediction of the other run."""
    cards = {}
    for run, predictions in shown.predictions.items():
        wrong = np.flatnonzero((shown.labels >= 0) & ~shown.right(run))
        worst = wrong[np.argsort(-predictions.score[wrong], kind="stable")[:MISTAKES]]
        cards[run] = [shown.predicted(row, first=run) for row in worst]
    return cards


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"

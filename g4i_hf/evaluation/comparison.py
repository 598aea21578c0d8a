"""The metrics of a split, and tables of a run and its baseline, for the terminal, the report and cards."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..options import aligns, learned_from_captions
from ..words import ends_in_words
from .estimate import accuracy_interval


@dataclass(frozen=True)
class Measure:
    """How tables show a metric."""

    title: str
    group: str = ""  # its heading; the first metrics have none
    chance: str | None = None  # name of the metric that holds the chance level
    is_share: bool = True  # shown in percent, otherwise as a number
    lower_is_better: bool = False


SHOWN = {"baseline": "labels only", "aligned": "with captions"}  # names of the two runs for users


def shown_names(options: Mapping[str, Any]) -> dict[str, str]:
    """The names where the aligned run has these options: `g4i fit` without captions has views alone."""
    has_none = aligns(options) is False and learned_from_captions(options) is None
    return SHOWN | {"aligned": "with views"} if has_none else SHOWN


CALIBRATION = "Calibration of the classifier"
OF_CAPTIONS = "Caption retrieval and zero-shot classification"

ALL_MEASURES = {
    "accuracy": Measure("accuracy"),
    "ece": Measure("ECE", CALIBRATION, lower_is_better=True),
    "adaptive_ece": Measure("adaptive ECE", CALIBRATION, lower_is_better=True),
    "nll": Measure("NLL, nats", CALIBRATION, is_share=False, lower_is_better=True),
    "brier": Measure("Brier score", CALIBRATION, is_share=False, lower_is_better=True),
    "recall_at_1": Measure("caption retrieval R@1", OF_CAPTIONS, chance="chance_at_1"),
    "recall_at_5": Measure("caption retrieval R@5", OF_CAPTIONS, chance="chance_at_5"),
    "zero_shot_accuracy": Measure("zero-shot accuracy", OF_CAPTIONS, chance="zero_shot_chance"),
}
SPEED = ("parameters", "macs", "cpu_threads", "latency_ms")
# All metrics of a split, including those that no table shows
METRICS_OF_A_SPLIT = (
    *ALL_MEASURES,
    *(measure.chance for measure in ALL_MEASURES.values() if measure.chance),
    *("samples", "labelled", "weights", "gallery_size", "accuracy_interval", "classes"),
)

# The metrics of a card; `g4i evaluate` shows all of ALL_MEASURES that it computed
CARD_MEASURES = ("accuracy", "recall_at_1", "recall_at_5")


@dataclass
class ComparisonRow:
    """A metric of one split, by its name in [`ALL_MEASURES`]; a fraction or, if it is not a share, a number."""

    split: str
    figure: str
    aligned: float
    baseline: float | None = None
    chance: float | None = None

    @property
    def measure(self) -> Measure:
        return ALL_MEASURES[self.figure]

    @property
    def difference(self) -> float | None:
        return None if self.baseline is None else self.aligned - self.baseline

    @property
    def is_better(self) -> bool | None:
        """Whether the aligned run is better; None if they are equal or there is no baseline."""
        return (self.difference < 0) == self.measure.lower_is_better if self.difference else None

    @property
    def title(self) -> str:
        """The title of the metric, with an arrow if lower is better."""
        return f"{self.measure.title} ↓" if self.measure.lower_is_better else self.measure.title

    def text(self, value: float | None, sign: str = "") -> str:
        """A value of the row for tables, in percent if it is a share; `sign` is `+` for differences."""
        if value is None:
            return ""
        return f"{100 * value:{sign}.1f}" if self.measure.is_share else f"{value:{sign}.3f}"


def compare(
    aligned: dict[str, Any], baseline: dict[str, Any] | None, splits: list[str], figures: Iterable[str] = CARD_MEASURES
) -> list[ComparisonRow]:
    """A row for each of the `figures` that the aligned run has, from `all_results.json` of both runs."""
    rows = []
    for figure in figures:
        for split in splits:
            name, chance = f"{split}_{figure}", f"{split}_{ALL_MEASURES[figure].chance}"
            if name in aligned:
                before = (baseline or {}).get(name)
                rows.append(ComparisonRow(split, figure, aligned[name], before, aligned.get(chance)))
    return rows


def as_text(rows: list[ComparisonRow], names: Mapping[str, str]) -> str:
    """The table for a terminal, shares in percent, with a heading for each group; one column without a baseline."""
    with_baseline = any(row.baseline is not None for row in rows)
    head = f"{names['baseline']:>15}{names['aligned']:>15}{'difference':>12}" if with_baseline else f"{'value':>10}"
    lines, group = [f"{'':28}{'split':12}{head}"], ""
    for row in rows:
        if row.measure.group != group:
            group = row.measure.group
            lines += ["", group]
        cells = f"{row.text(row.aligned):>{15 if with_baseline else 10}}"
        if with_baseline:
            cells = f"{row.text(row.baseline):>15}{cells}{row.text(row.difference, '+'):>12}"
        chance = f" (chance {row.text(row.chance)})" if row.chance is not None else ""
        lines.append(f"{row.title:28}{row.split:12}{cells}{chance}")
    if any(row.measure.lower_is_better for row in rows):
        lines += ["", "In percent, except NLL and the Brier score; ↓: less is better."]
    return "\n".join(lines)


def as_markdown(rows: list[ComparisonRow], names: Mapping[str, str]) -> str:
    """The table for a card: [`as_text`] in Markdown, without headings."""
    if not any(row.baseline is not None for row in rows):
        cells = [[row.title, row.split, row.text(row.aligned)] for row in rows]
        return markdown_table(["measure", "split", "value"], cells, texts=2)
    cells = [
        [row.title, row.split, row.text(row.baseline), row.text(row.aligned), row.text(row.difference, "+")]
        for row in rows
    ]
    return markdown_table(["measure", "split", *names.values(), "difference"], cells, texts=2)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """The first `texts` columns are left-aligned, the others are numbers."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
    lines.insert(1, "|" + "---|" * texts + "---:|" * (len(heads) - texts))
    return "\n".join(lines)


def interval_text(accuracy: float, images: int) -> str:
    """The 95% interval over images, in percent: `24 to 76`."""
    return ends_in_words(accuracy_interval(accuracy, images))

"""Labels in files of other tools: CSV, Label Studio, CVAT and FiftyOne."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Annotation:
    """What a file says of an image."""

    name: str  # of the image, as the file writes it
    label: str | None  # None: the image has no label there
    where: str  # in the file, such as `row 3`
    by: str | None = None  # the annotator, if the file names one
    pick: str | None = None  # how the image was selected, in a `labels.jsonl`
    digest: str | None = None  # of the image, there


@dataclass
class Contents:
    """Of a file with labels."""

    kind: str  # of the file, in words
    annotations: list[Annotation]
    taken: dict[str, str] = field(default_factory=dict)  # what was read from which column
    captions: int = 0  # rows with one
    left_out: dict[str, int] = field(default_factory=dict)  # numbers of other things in the file, by their words


@dataclass(frozen=True)
class Exported:
    """An image for a file of labels."""

    name: str
    label: str | None  # of all annotators together
    by: Mapping[str, str] = field(default_factory=dict)  # the label of each annotator
    suggestion: tuple[str, float] | None = None  # a class, and its probability

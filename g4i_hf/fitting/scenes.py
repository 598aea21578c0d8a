"""Which images show one scene, over all splits: by the column `group`, or by what their features and pixels tell."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from datasets import Dataset, Value, concatenate_datasets

from .. import columns, priors
from ..data.checks import labels_of
from ..data.groups import classes_of_one_group, groups_of, merged
from ..data.joining import is_of_content
from ..data.labels import GOLD
from ..data.near_copies import scenes
from ..data.record import order_of
from ..files import some
from ..options.data import NO_GROUPS
from ..processes import on_main_process
from ..training.features import thumbnails

HOW_TO = (
    "Name them by a column `group` or --group_by folder, time or a regular expression; --group_by none ignores them"
)
MOST_GOLD = 0.2  # of all groups


@dataclass
class Scenes:
    """Of the images of some splits."""

    splits: Mapping[str, Dataset]
    numbers: dict[str, np.ndarray]  # by split, (n,) the same for images of one group
    contents: dict[str, np.ndarray]  # the same for equal images
    were_found: bool = False  # by features and pixels

    @classmethod
    def of(
        cls,
        splits: Mapping[str, Dataset],
        features: Mapping[str, np.ndarray],
        group_by: str | None,
        folder: Path,
        accelerator: Accelerator,
        by_pixels: bool = False,
    ) -> "Scenes":
        """
        All processes call it. Without a column, scenes are found among the splits with `features` (n, F), unless
        `group_by` is none; thumbnails are kept in `folder`. `by_pixels`: see [`~g4i_hf.data.record.order_of`].
        """
        contents = {name: order_of(split, by_pixels)[1] for name, split in splits.items()}
        if has_groups(splits):
            keys = [key for split in splits.values() for key in _column(split)]
            numbers = groups_of(keys, np.concatenate([*contents.values()]))
        elif group_by == NO_GROUPS or not features:
            return cls(splits, contents, contents)
        else:
            pixels = np.concatenate([thumbnails(splits[name], folder, accelerator) for name in features])
            every = np.concatenate([contents[name] for name in features])
            _, first, inverse = np.unique(every, return_index=True, return_inverse=True)
            values = np.concatenate([*features.values()])
            of_images = on_main_process(lambda: scenes(values[first], pixels[first]))
            numbers = merged(every, of_images[inverse])
            splits = {name: splits[name] for name in features}
            contents = {name: contents[name] for name in features}
        ends = np.cumsum([len(split) for split in splits.values()])[:-1]
        parts = dict(zip(splits, np.split(numbers, ends), strict=True))
        return cls(splits, parts, contents, not has_groups(splits))

    def without(self, name: str, rows: np.ndarray) -> "Scenes":
        """Without these rows of a split."""
        numbers, contents = ({**each, name: np.delete(each[name], rows)} for each in (self.numbers, self.contents))
        kept = np.delete(np.arange(len(self.splits[name])), rows)
        return Scenes({**self.splits, name: self.splits[name].select(kept)}, numbers, contents, self.were_found)

    def with_gold(self, rows: np.ndarray, are_kept: np.ndarray) -> "Scenes":
        """With these rows of gold images in training, as reviewed ones; of the others, some are kept."""
        training, gold = self.splits["train"], self.splits[GOLD]
        if columns.REVIEW not in training.column_names:
            training = training.add_column(columns.REVIEW, [""] * len(training), feature=Value("string"))
        reviewed = gold.select(rows).add_column(columns.REVIEW, [GOLD] * len(rows), feature=Value("string"))
        training = concatenate_datasets([training, reviewed.select_columns(training.column_names)])
        splits = {**self.splits, "train": training, GOLD: gold.select(np.flatnonzero(are_kept))}
        numbers, contents = (
            each | {"train": np.concatenate([each["train"], each[GOLD][rows]]), GOLD: each[GOLD][are_kept]}
            for each in (self.numbers, self.contents)
        )
        if not are_kept.any():
            del splits[GOLD], numbers[GOLD], contents[GOLD]
        return Scenes(splits, numbers, contents, self.were_found)

    def are_kept(self) -> np.ndarray:
        """
        (n,) which gold images judge. Scenes that others in training show leave it for that, at most a fifth of all; of
        more, a part of all gold images judges, or none where those would be too few.
        """
        numbers, training = self.numbers[GOLD], np.unique(self.numbers["train"])
        shown, new = np.intersect1d(numbers, training), np.setdiff1d(numbers, training)
        share = min(MOST_GOLD * (len(training) + len(new)) / max(len(shown), 1), 1)
        # Numbers are digests of contents, so that this part is a random sample too
        are_kept = np.isin(numbers, np.concatenate([each[: int(share * len(each))] for each in (shown, new)]))
        labelled = numbers[are_kept & (labels_of(self.splits[GOLD]) >= 0)]
        return are_kept if share == 1 or len(np.unique(labelled)) >= priors.MIN_JUDGES else np.zeros_like(are_kept)

    def most_gold(self, training: str = "train") -> int:
        """How many gold images may still be picked, of as many groups, where there are groups of several images."""
        counts = self.counts(training)
        if self.are_single(training):
            return counts["images"]
        there = len(np.unique(self.numbers[GOLD])) if GOLD in self.numbers else 0
        return max(int(MOST_GOLD * (counts["groups"] + there)) - there, 0)

    def are_single(self, training: str = "train") -> bool:
        """Whether each group is of one image, and copies that equal it."""
        return self.counts(training)["groups"] == len(np.unique(self.contents[training]))

    def are_new(self, name: str) -> np.ndarray:
        """(n,) whether no training image is of the group of an image of this split."""
        return ~np.isin(self.numbers[name], self.numbers["train"])

    def counts(self, name: str = "train") -> dict[str, int]:
        """`images`, those that are `different`, `groups`, and how many groups of different images were `found`."""
        numbers, contents = self.numbers[name], self.contents[name]
        different = np.unique(np.stack([numbers, contents]), axis=1)[0]
        several = int((np.unique(different, return_counts=True)[1] > 1).sum())
        return {
            "images": len(numbers),
            "groups": len(np.unique(numbers)),
            "different": len(np.unique(contents)),
            "found": several if self.were_found else 0,
        }

    # --- In words ------------------------------------------------------------------------------------------------

    def lines(self, classes: Mapping[int, str], training: str = "train") -> Iterator[str]:
        """Lines on the groups for the user; none where there is none."""
        numbers, contents = self.numbers[training], self.contents[training]
        number = len(np.unique(numbers))
        if not self.are_single(training):
            line = f"Groups: {len(numbers):,} images of {number:,} scenes"
            if self.were_found:
                yield f"{line}, found by features and pixels{self._example(training)}. {HOW_TO}."
            else:
                yield f"{line}. Images of a scene are held out together."
            yield from self._of_several_classes(classes, training)
        apart = {training, GOLD}  # or will be
        for name in self.numbers:
            is_equal = np.isin(self.contents[name], contents)
            shared = np.flatnonzero(np.isin(self.numbers[name], numbers) & ~is_equal)
            if name not in apart and len(shared):
                other = int(np.flatnonzero(numbers == self.numbers[name][shared[0]])[0])
                yield (
                    f"Groups: {len(shared):,} of {len(self.numbers[name]):,} images of {name!r} show scenes of "
                    f"{training!r}, such as {self._named(name, shared[0])} and {self._named(training, other)}. They "
                    "say little about new scenes."
                )
        if len(of_one := classes_of_one_group(labels_of(self.splits[training]), numbers)) and number < len(numbers):
            named = some([repr(classes[label]) for label in of_one.tolist()])
            yield (
                f"Groups: all labels of {named} are of one scene, so that none can be held out. Label images of other "
                "scenes."
            )

    def _named(self, name: str, row: int) -> str:
        image_id = self.splits[name][int(row)][columns.IMAGE_ID]
        return f"row {row:,}" if is_of_content(image_id) else repr(image_id)

    def _example(self, name: str) -> str:
        _, inverse, counts = np.unique(self.numbers[name], return_inverse=True, return_counts=True)
        in_several = counts[inverse] > 1
        first, second = np.flatnonzero(inverse == inverse[np.flatnonzero(in_several)[0]])[:2]
        named = f"{self._named(name, first)} and {self._named(name, second)}"
        return f" ({in_several.sum():,} show the scene of another, such as {named})"

    def _of_several_classes(self, classes: Mapping[int, str], name: str) -> Iterator[str]:
        labels, numbers = labels_of(self.splits[name]), self.numbers[name]
        rows = np.flatnonzero(labels >= 0)
        pairs, first = np.unique(np.stack([numbers[rows], labels[rows]]), axis=1, return_index=True)
        groups, counts = np.unique(pairs[0], return_counts=True)
        if not (counts > 1).any():
            return
        one, other = rows[first[pairs[0] == groups[counts > 1][0]]][:2]
        named = [f"{self._named(name, row)} ({classes[int(labels[row])]!r})" for row in (one, other)]
        yield (
            f"Groups: {(counts > 1).sum():,} of these scenes have labels of several classes, such as "
            f"{' and '.join(named)}. Correct them, or join classes of the same photographs."
        )


def has_groups(splits: Mapping[str, Dataset]) -> bool:
    return any(columns.GROUP in split.column_names for split in splits.values())


def _column(split: Dataset) -> list[str | None]:
    return split[columns.GROUP][:] if columns.GROUP in split.column_names else [None] * len(split)

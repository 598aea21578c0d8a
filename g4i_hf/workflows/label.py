"""`g4i label`: which images a person should look at, and what they answer."""

import shlex
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import columns
from ..data.checks import labels_of
from ..data.classes import ClassWords, class_names, in_another_case, same_form, words_of
from ..data.labels import DISAGREEMENTS, GOLD, NONE, file_names, last_answer_of, line_of, read_people, reviews_of
from ..data.loading import images_root, labels_file_of, load_data, read_classes, take_classes_of
from ..data.record import order_of
from ..data.texts import visible_texts
from ..files import printable
from ..fitting.evidence import FitImages
from ..label_model import LabelModel
from ..label_model.picks import ROUND, pick_gold, pick_next, pick_none, pick_wrong
from ..label_model.views import NEEDS, rows_with_a_view
from ..names import OPTIONS_FILE, config_of, run_of
from ..options import DataArguments, FitArguments, LabelArguments, names_of
from ..output import say
from ..pages import page

LIKELIEST, EXAMPLES = 9, 3  # classes with a key, and images of the suggested class


class NotSaved(Exception):
    """Why an answer was not saved, for the page, which keeps showing the image."""


class Labelling:
    """
    What is known of the training images, which of them to look at, and answers. `say` takes a line for the user.

    Attributes:
        given, before: (N,) labels and how they were picked when the page was opened.
        labels, reviews: the same with the answers since, -1 and "" without one.
        probabilities: (N, C), of a labelled row without its label; equal where nothing tells a class.
    """

    def __init__(self, args: LabelArguments, data: DataArguments, say: Callable[[str], object] = say):
        self.args, self.data, self.say = args, data, say
        shared = {name: value for name, value in vars(args).items() if name in names_of(FitArguments)}
        if args.run:
            take_classes_of(args.run, data)
        self.fit_images = FitImages(FitArguments(**shared), data, say)
        self.root = images_root(data)
        self.file = labels_file_of(data, self.fit_images.folder)
        if data.labels_file and not self.file.is_file():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.touch()

    def compute(self) -> None:
        """Computes the views, unless they are there, and fits the label model. No student is trained."""
        images = self.fit_images
        images.open(("train", GOLD))
        images.check()
        images.prepare()
        images.compute_views(trains=False)
        self.images, self.views = images.training, images.known_views()
        self.classes = [images.id2label[label] for label in sorted(images.id2label)]
        self.names, (self.digests, self.contents) = file_names(self.images, self.root), order_of(self.images)
        self.groups = images.scenes.numbers["train"]
        self.most_gold = len(self.groups) if self.args.run else images.scenes.most_gold()  # else they would teach
        self.given, self.before = np.maximum(labels_of(self.images), -1), reviews_of(self.images)
        self.words, self.class_file = dict(words_of(images.id2label)), read_classes(self.data)
        self._take_own()
        self.gold = len(images.splits.get(GOLD, ()))
        self.begin()
        if self.args.pick == GOLD and self.most_gold < min(self.left, len(self.names)):
            what = f"{self.most_gold:,} images in place of {self.left:,}"
            self.say(f"{what}: a random sample has one image of a scene, and of a fifth of the scenes at most.")

    def _take_own(self) -> None:
        """Where others answered too, the answers of this person alone are those that can be undone."""
        people, self.differ = self._people(), np.zeros(len(self.names), dtype=bool)
        if all(by == self.args.by for lines in people.values() for by in lines):
            return
        for row, name in enumerate(self.names):
            lines = {by: line for by, line in people.get(name, {}).items() if self._is_of(line, row)}
            own = lines.get(self.args.by)
            self.differ[row] = len({self._index(line) for line in lines.values()}) > 1
            self.before[row] = own["pick"] if own else ""
            if own:
                self.given[row] = self._index(own)

    def _people(self) -> dict[str, dict[str, dict[str, Any]]]:
        return read_people(self.file, self.class_file)

    def _is_of(self, line: dict[str, Any], row: int) -> bool:
        """Whether it is about the image as it is now."""
        return line.get("digest") in (None, self.digests[row])

    def _index(self, line: dict[str, Any]) -> int:
        """The class of an answer, -1 for none of them."""
        label = line.get("label")
        now = self.class_file.now(label) if self.class_file and label is not None else label
        return -1 if now is None else list(map(same_form, self.classes)).index(same_form(now))

    def begin(self) -> None:
        self.labels, self.reviews = self.given.copy(), self.before.copy()
        lines = [line for lines in self._people().values() for line in lines.values()]
        self.new = {line["label"] for line in lines if line.get("new_class") is True}
        self.shown = np.zeros(len(self.labels), dtype=bool)
        self.left = self.args.n - (self.gold if self.args.pick == GOLD else 0)
        self.learn()

    def learn(self) -> None:
        """Fits the label model on the labels so far. Where there are too few for one, nothing tells a class."""
        given: dict[str, Any] = {"ids": self.digests, "groups": self.groups, "reviewed": self.reviews != ""}
        number = len(self.classes)
        try:
            model = LabelModel(number).fit(self.views, self.labels, **given, kept=self.reviews == NONE)
        except ValueError as error:
            if str(error) != NEEDS:
                raise
            self.probabilities = np.full((len(self.labels), number), 1 / number, dtype=np.float32)
            self.none = self.explained = np.zeros(len(self.labels), dtype=np.float32)
        else:
            self.probabilities = model.probabilities_.astype(np.float32)
            self.none, self.explained = model.none_, model.explained_

    @property
    def following(self) -> str:
        if self.args.run:
            what = ["--dataset_name", self.data.dataset_name, "--splits", "gold", "--class_names_file"]
            command = shlex.join(["g4i", "evaluate", self.args.run, *what, str(config_of(self.args.run))])
            is_run = (run_of(self.args.run) / OPTIONS_FILE).is_file()
            return f"Measure with them: {command}" if is_run else "Compare them with what g4i predict says."
        options = ["-o", self.args.output_dir] if self.args.output_dir else []
        options += ["--group_by", self.data.group_by] if self.data.group_by else []
        return f"Learn from them: {shlex.join(['g4i', 'fit', self.data.dataset_name, *options])}"

    def nothing(self) -> str:
        """Why the list of images is empty."""
        more = f"For more: --n {self.args.n + 100}." if self.most_gold else "More would be over a fifth of the scenes."
        return {
            "wrong": "No label looks wrong.",
            "next": "Every image has a label, or seems to belong to no class: --pick none shows those.",
            GOLD: f"{self.args.n - self.left:,} gold images are answered. {more}",
            NONE: "Every image was reviewed.",
            DISAGREEMENTS: "No image has different labels of two annotators, or you answered all of them (--by).",
        }[self.args.pick]

    # --- Which images ------------------------------------------------------------------------------------------------

    def picked(self, number: int) -> np.ndarray:
        """Up to so many rows, which were not shown before."""
        pick, is_open = self.args.pick, ~self.shown & (self.reviews == "")
        if pick == GOLD:
            picked = pick_gold(self.groups, self.most_gold)
            picked = picked[~self.shown[picked]]
        elif pick == "wrong":
            picked = pick_wrong(self.probabilities, self.labels, self.contents, rows_with_a_view(self.views))
            picked = picked[is_open[picked]]
        elif pick == DISAGREEMENTS:
            rows = np.flatnonzero(is_open & self.differ)
            picked = rows[np.argsort(self.probabilities[rows].max(1), kind="stable")]
        elif pick == NONE:
            rows = np.flatnonzero(is_open)
            picked = rows[pick_none(self.none[rows], self.explained[rows], self.labels[rows])]
        else:
            of_other_scenes = is_open & ~np.isin(self.groups, self.groups[~is_open | (self.labels >= 0)])
            if (self.none[of_other_scenes] <= 0.5).any():  # they teach more
                is_open = of_other_scenes
            values, none = [view.values for view in self.views.values()], np.where(is_open, self.none, 1)
            is_none = (self.reviews == NONE) & (self.labels < 0)  # some shown by `none` are of a class
            picked = pick_next(self.probabilities, self.labels, none, is_none, values, number, groups=self.groups)
        return picked[: max(number, 0)]

    def items(self) -> list[dict[str, Any]]:
        """The next images for the page; of `next` a round, after what was answered is learned."""
        if self.args.pick == "next" and self.shown.any():
            self.learn()
        number = min(self.left, ROUND) if self.args.pick == "next" else self.left
        rows = self.picked(number)
        self.shown[rows] = True
        self.left -= len(rows)
        return [self._item(int(row)) for row in rows]

    def waiting(self) -> int:
        """How many images at most are shown after those that were."""
        if self.args.pick != "next":
            return 0
        is_useful = ~self.shown & (self.reviews == "") & (self.labels < 0) & (self.none <= 0.5)
        return min(self.left, int(is_useful.sum()))

    def reopen(self) -> None:
        """For a page that is loaded anew: images without an answer are shown again."""
        again = self.shown & ~self.answered
        self.shown &= ~again
        self.left += int(again.sum())

    def _item(self, row: int) -> dict[str, Any]:
        probabilities = self.probabilities[row]
        order = np.argsort(-probabilities, kind="stable")[:LIKELIEST]
        of_class = np.setdiff1d(np.flatnonzero(self.labels == order[0]), row)
        examples = of_class[np.argsort(-self.probabilities[of_class, order[0]], kind="stable")][:EXAMPLES]
        return {
            "row": row,
            "name": self.names[row],
            "captions": visible_texts(self.images[row].get(columns.CAPTION)),
            "classes": [[int(label), round(float(probabilities[label]), 4)] for label in order],
            "label": int(self.labels[row]),
            "examples": examples.tolist(),
        }

    # --- Answers -----------------------------------------------------------------------------------------------------

    @property
    def answered(self) -> np.ndarray:
        """(N,) whether an image has an answer since the page was opened."""
        return (self.reviews != self.before) | (self.labels != self.given)

    def class_of(self, name: str, description: str = "") -> int:
        """
        The class of this name or synonym, a new one unless there is one; NotSaved for a name that differs in case
        only, or of a class that was dropped.
        """
        name = same_form(" ".join(name.split()))
        if self.class_file is not None:
            if self.class_file.now(name) is None:
                raise NotSaved(f"{self.class_file.file} drops the class {name!r}: take that out, and start again.")
            name = self.class_file.other_names().get(name.casefold(), name)
        known = list(map(same_form, self.classes))
        if (other := in_another_case(name, self.classes)) is not None:
            raise NotSaved(f"There is a class {other!r}: type the name again to choose it.")
        if name not in known:
            self.words = self.words | {name: ClassWords(description=description)}
            self.new, self.classes = self.new | {name}, [*self.classes, name]
            self.views = {name: view.with_another_class() for name, view in self.views.items()}
            self.probabilities = np.pad(self.probabilities, ((0, 0), (0, 1)))
            return len(known)
        return known.index(name)

    def answer(
        self,
        append: Callable[[str], None],
        row: int,
        label: int | None,
        none: bool = False,
        undo: bool = False,
        description: str = "",
    ) -> None:
        """Appends a line, then counts the answer; an undone one gives way to the one before. NotSaved if it fails."""
        pick: str = self.args.pick
        if undo and self.before[row]:
            label, pick = int(self.given[row]), str(self.before[row])
            label, none = (None, True) if label < 0 else (label, False)  # the answer before was none of these
        text = None if label is None else self.classes[label]
        given = pick, text, none, text in self.new, self.args.by, undo, description
        self._append(append, self.names[row], self.digests[row], *given)
        self.labels[row] = -1 if none else self.given[row] if label is None else label
        self.reviews[row] = NONE if none else pick if label is not None else ""
        if not self.shown[row]:  # but on a page that was opened before this one
            self.shown[row], self.left = True, max(self.left - 1, 0)

    def _append(self, append: Callable[[str], None], name: str, digest: str | None, *answer: Any) -> None:
        try:
            append(line_of(name, columns.IMAGE_ID if self.root is None else "file_name", digest, *answer))
        except OSError as error:
            what = f"{self.file} cannot be written ({error.strerror})"
            raise NotSaved(f"{what}. Correct that, then answer again.") from error

    def take_back(self, append: Callable[[str], None]) -> dict[str, Any]:
        """
        Takes back the last answer of this person in the file, perhaps of an earlier start: the one before it, or the
        label of the data, counts again. `item` is its image, null where it is no open one. NotSaved without an answer.
        """
        if (answers := last_answer_of(self.file, self.args.by)) is None:
            raise NotSaved("No answer of yours is left.")
        last, before = answers
        row = self.names.index(last["name"]) if last["name"] in self.names else None
        if row is not None and not self._is_of(last, row):
            row = None
        label = -1  # known before the line is written
        if row is not None and before:
            if before.get("new_class"):  # which no answer that counts may have now
                self.class_of(before["label"], before.get("description") or "")
            label = self._index(before)
        elif row is not None:
            label = self._label_in_data(last["name"])
        earlier = before or {"label": None, "pick": last["pick"]}
        given = earlier["pick"], earlier["label"], bool(earlier.get("none")), bool(earlier.get("new_class"))
        self._append(append, last["name"], earlier.get("digest", last.get("digest")), *given, self.args.by, True)
        if row is None:
            return {"name": last["name"], "item": None}
        self.given[row] = label
        self.before[row] = before["pick"] if before else ""
        self.labels[row], self.reviews[row] = self.given[row], self.before[row]
        self.shown[row] = True
        return {"name": last["name"], "item": self._item(row)}

    def _label_in_data(self, name: str) -> int:
        """The label of an image without answers, -1 without one."""
        splits = load_data(self.data)
        if columns.LABEL not in splits["train"].column_names:
            return -1
        splits, names = class_names(splits)
        label = labels_of(splits["train"])[file_names(splits["train"], self.root).index(name)]
        return -1 if label < 0 else self._index({"label": names[int(label)]})

    # --- What is left of it ------------------------------------------------------------------------------------------

    def listed(self) -> list[str]:
        """`file_name`, suggestion, its probability and the given label, separated by tabs; of gold the name alone."""
        rows = self.picked(self.left)
        if self.args.pick == GOLD:
            return [printable(self.names[row]) for row in rows]
        lines = []
        for row in rows:
            share, suggested = self.probabilities[row].max(), self.classes[self.probabilities[row].argmax()]
            given = self.classes[self.given[row]] if self.given[row] >= 0 else ""
            lines.append("\t".join(map(printable, (self.names[row], suggested, f"{share:.4f}", given))))
        return lines

    def page(self, nonce: str) -> str:
        """The page, whose script asks the server for images."""
        pick = self.args.pick
        data = {"pick": pick, "hides": pick == GOLD, "then": self.following}
        return page("label.html.j2", data=self.named() | data, nonce=nonce)

    def named(self) -> dict[str, Any]:
        """Names and descriptions of the classes for the page."""
        words = [self.words.get(name, ClassWords()) for name in self.classes]
        names = [each.called(name) for each, name in zip(words, self.classes, strict=True)]
        return {"classes": names, "descriptions": [each.description for each in words]}

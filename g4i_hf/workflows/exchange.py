"""`g4i label --import` and `--export`: labels of other tools in, and those of `labels.jsonl` out."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from .. import columns
from ..data.classes import NONE_OF_THESE, class_names, same_form
from ..data.exchange import Annotation, Contents, Exported
from ..data.exchange.cvat import cvat_of
from ..data.exchange.fiftyone import fiftyone_of
from ..data.exchange.label_studio import tasks_of
from ..data.exchange.matching import NO_ROW, SEVERAL, ImageNames
from ..data.exchange.reading import read_contents
from ..data.exchange.tables import csv_of
from ..data.labels import GOLD, MANUAL, answers_of, answers_to, file_names, line_of, read_people
from ..data.loading import images_root, labels_file_of, load_data, read_classes, take_classes_of
from ..data.metadata import Faults
from ..data.record import image_digests
from ..files import did_you_mean, replace_text, some
from ..inference.classifier import open_classifier
from ..options import DataArguments, LabelArguments
from ..output import progress_bar

WRITERS: dict[str, Callable[[Iterable[Exported], Sequence[str]], str]] = {
    "csv": csv_of,
    "label-studio": tasks_of,
    "cvat": cvat_of,
    "fiftyone": fiftyone_of,
}
MOST_SAID = 10  # faults of a file
BATCH = 32
Say = Callable[[str], object]
Answer = tuple[str | None, bool]  # a label, or that it is none of the classes


class Exchange:
    """
    The images and classes of the data, and what people have answered.

    Attributes:
        names: (N,) of the images of all splits, as in `labels.jsonl`.
        classes: their names, with those that `labels.jsonl` adds.
        gold: rows and annotators of answers that measure the accuracy.
    """

    def __init__(self, args: LabelArguments, data: DataArguments, folder: str, say: Say):
        self.args, self.data, self.folder, self.say = args, data, folder, say
        if args.run:
            take_classes_of(args.run, data)
        self.splits, self.root = load_data(data), images_root(data)
        file = labels_file_of(data, folder)
        assert file is not None  # as there is a folder
        self.file = file
        self.names = [name for split in self.splits.values() for name in file_names(split, self.root)]
        self.now = read_classes(data)
        self.people = read_people(self.file, self.now)
        self.classes, self.has_classes = _classes_of(self.splits)
        known = set(map(same_form, self.classes))
        lines = [line for of_image in self.people.values() for line in of_image.values()]
        new = {line["label"] for line in lines if line.get("new_class") is True and line.get("label") is not None}
        self.new = {name for name in new if same_form(name) not in known}
        self.classes += sorted(self.new)
        self.of_other_images = 0  # labels of a file whose digest is not that of the image
        self.picks: dict[tuple[int, str], str] = {}  # of labels in a file, how the image was selected
        self.gold = {(row, by) for row, name in enumerate(self.names) for by in self._gold_of(name)}

    def _gold_of(self, name: str) -> list[str]:
        return [by for by, line in self.people.get(name, {}).items() if line["pick"] == GOLD]

    # --- In ----------------------------------------------------------------------------------------------------------

    def add(self) -> None:
        """
        Appends the labels of a file to `labels.jsonl`. Raises ValueError for all that is wrong with it at once; then
        nothing is written.
        """
        path, faults = Path(self.args.import_file or ""), Faults()
        images = ImageNames(self.names)
        contents = read_contents(path, self.args.columns or [], images, self.classes, faults)
        rows = images.rows_of(dict.fromkeys(each.name for each in contents.annotations))
        self._check_names(rows, faults)
        answers = self._answers(contents.annotations, rows, faults)
        if not faults.in_words() and not any(row >= 0 for row in rows.values()):
            first = f", such as {next(iter(rows))!r}" if rows else ""
            faults("", f"names no image that is here{first}", f"Names are like {self.names[0]!r}.")
        if lines := faults.in_words():
            more = f" And {len(lines) - MOST_SAID} more." if len(lines) > MOST_SAID else ""
            raise ValueError(f"{path}: {' '.join(lines[:MOST_SAID])}{more} Nothing was written.")
        for line in self._said(path, contents, rows):
            self.say(line)
        self._write(answers)

    def _check_names(self, rows: dict[str, int], faults: Faults) -> None:
        named: dict[int, str] = {}
        for name, row in rows.items():
            if row == SEVERAL:
                faults(f"{name!r}", "fits several images", f"Name them by their paths, such as {self.names[0]!r}.")
            elif row >= 0 and named.setdefault(row, name) != name:
                faults(f"{name!r}", f"and {named[row]!r} fit {self.names[row]!r}", "Name each image by one path.")

    def _answers(
        self, annotations: list[Annotation], rows: dict[str, int], faults: Faults
    ) -> dict[tuple[int, str], Answer]:
        """By row and annotator."""
        answers: dict[tuple[int, str], Answer] = {}
        digests = self._digests({rows[each.name] for each in annotations if each.digest and rows[each.name] >= 0})
        where: dict[tuple[int, str], str] = {}
        unknown: dict[str, list[str]] = {}
        folded = Counter(same_form(name).casefold() for name in self.classes)
        index = {form: name for name in self.classes if folded[form := same_form(name).casefold()] == 1}
        index |= {same_form(name): name for name in self.classes}
        if self.now is not None:
            index |= {other: now for other, now in self.now.other_names().items() if other not in index}
        for each in annotations:
            place = rows[each.name], each.by or self.args.by
            if each.label is None or place[0] < 0:
                continue
            if each.digest and each.digest != digests[place[0]]:
                self.of_other_images += 1
                continue
            form = same_form(each.label)
            if self.now is not None and self.now.now(form) is None:
                what = f"has a label of {form!r}, a class that {self.now.file} drops"
                faults(each.where, what, "Take that out, or remove these rows.")
                continue
            label = index.get(form, index.get(form.casefold()))
            if label is None and form.casefold() != NONE_OF_THESE:
                unknown.setdefault(form, []).append(each.where)
                label = form
            answer = label, label is None
            if each.pick == GOLD:
                self.gold.add(place)
            self.picks[place] = each.pick or (GOLD if self.args.pick == GOLD else MANUAL)
            if answers.setdefault(place, answer) != answer:
                what = f"has two labels of one annotator: {where[place]} and {each.where}"
                faults(f"{self.names[place[0]]!r}", what, "Keep one, or name the annotators in a column by.")
            where.setdefault(place, each.where)
        self._check_unknown(unknown, faults)
        return answers

    def _check_unknown(self, unknown: dict[str, list[str]], faults: Faults) -> None:
        if self.args.new_classes:
            folded = Counter(name.casefold() for name in unknown)
            if alike := [name for name in unknown if folded[name.casefold()] > 1]:
                faults("", f"has classes that differ in case only: {some(alike)}", "Write one of them.")
            self.new |= unknown.keys()
        elif unknown:
            shown = [f"{name!r} ({len(places):,}, first in {places[0]})" for name, places in unknown.items()]
            near = did_you_mean(next(iter(unknown)), self.classes)
            of = f"none of the {len(self.classes):,} classes" if self.has_classes else "no class, as the data has none"
            names = "label is" if len(unknown) == 1 else "labels are"
            remedy = "Correct them, or add them as classes: --new_classes true."
            faults("", f"{len(unknown):,} {names} {of}: {some(shown)}", f"{remedy}{near}")

    def _said(self, path: Path, contents: Contents, rows: dict[str, int]) -> Iterable[str]:
        taken = ", ".join(f"{what} in {column!r}" for what, column in contents.taken.items())
        yield f"{path}: {contents.kind}{f', {taken}' if taken else ''}."
        there, lost = ([name for name, row in rows.items() if (row == NO_ROW) == is_lost] for is_lost in (False, True))
        line = f"Images found: {len(there):,}, the first is {self.names[rows[there[0]]]}."
        yield f"{line} Not found: {len(lost):,}, the first is {lost[0]}." if lost else line
        without = sum(each.label is None for each in contents.annotations)
        left_out = ({"without a label": without} if without else {}) | contents.left_out
        left_out |= {"of another image of that name": self.of_other_images} if self.of_other_images else {}
        if left_out:
            yield f"Left out: {', '.join(f'{number:,} {what}' for what, number in left_out.items())}."
        if contents.captions:
            words = ["g4i", "caption", "--dataset_name", str(self.data.dataset_name), "--captions_file", str(path)]
            words += ["--captions_dir", f"{self.folder}/captions"]
            yield f"Captions: {contents.captions:,} rows have one. To use them: {shlex.join(words)}"

    def _write(self, answers: dict[tuple[int, str], Answer]) -> None:
        """Those that say anything new; a gold image stays gold."""
        by_name = columns.IMAGE_ID if self.root is None else "file_name"
        counts, digests, lines = Counter[str](), self._digests({row for row, _ in answers}), list[str]()
        with answers_to(self.file) as append:
            for (row, by), (label, none) in answers.items():
                before = self.people.get(self.names[row], {}).get(by)
                is_same = before is not None and (before.get("label"), bool(before.get("none"))) == (label, none)
                is_same = is_same and before.get("digest") in (None, digests[row])  # else of an earlier image
                pick = GOLD if (row, by) in self.gold else self.picks[row, by]
                is_same = is_same and (pick != GOLD or before is None or before["pick"] == GOLD)
                counts["there" if is_same else "new" if before is None else "changed"] += 1
                if not is_same:
                    name, digest = self.names[row], digests[row]
                    lines.append(line_of(name, by_name, digest, pick, label, none, label in self.new, by))
            append("".join(lines))
        parts = [f"{counts['new']:,} new", f"{counts['changed']:,} changed", f"{counts['there']:,} were there before"]
        self.say(f"{self.file}: labels: {', '.join(parts)}.")
        annotators = {by for lines in self.people.values() for by in lines} | {by for _, by in answers}
        if len(annotators) > 1:
            names = some(sorted(annotators))
            self.say(
                f"It has labels of {len(annotators):,} annotators ({names}), so each is a vote. To correct: --by NAME."
            )

    def _digests(self, rows: set[int]) -> dict[int, str | None]:
        digests: dict[int, str | None] = {}
        start = 0
        for split in self.splits.values():
            of_split = sorted(row for row in rows if start <= row < start + len(split))
            chosen = split.select([row - start for row in of_split])
            of_images = image_digests(chosen)[columns.IMAGE_DIGEST]
            digests |= dict(zip(of_split, of_images, strict=True))
            start += len(split)
        return digests

    # --- Out ---------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """All images, with the labels that people gave, and suggestions for the others."""
        path, kind = Path(self.args.export_file or ""), self.args.format or ""
        if path.exists():
            raise FileExistsError(f"export_file is {str(path)!r}, which exists. Name another file, or remove it.")
        suggestions, people = self._suggestions(), self._people_of_these_images()
        answers, images = answers_of(people), []
        for name in self.names:
            by = {by: _label(line) for by, line in people.get(name, {}).items()}
            label = _label(answers[name]) if name in answers else None
            images.append(Exported(name, label, by, suggestions.get(name)))
        given = [label for image in images for label in (*image.by.values(), *(image.suggestion or ())[:1])]
        classes = list(dict.fromkeys([*self.classes, *(label for label in given if label is not None)]))
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, WRITERS[kind](images, classes))
        labelled = sum(image.label is not None for image in images)
        self.say(f"{path}: {len(images):,} images, {labelled:,} with a label{self._suggested_in_words(suggestions)}.")
        if self.of_other_images:
            self.say(f"Left out: {self.of_other_images:,} labels of images that have changed since.")

    def _people_of_these_images(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Answers by name and annotator, but for those to an earlier image of the name."""
        rows = {row: name for row, name in enumerate(self.names) if name in self.people}
        digests, kept = self._digests({*rows}), {}
        for row, name in rows.items():
            kept[name] = {
                by: line for by, line in self.people[name].items() if line.get("digest") in (None, digests[row])
            }
            self.of_other_images += len(self.people[name]) - len(kept[name])
        return {name: lines for name, lines in kept.items() if lines}

    def _suggestions(self) -> dict[str, tuple[str, float]]:
        """By name of the image, the likeliest class and its probability; not of unreadable images."""
        if not self.args.suggest:
            return {}
        classifier = open_classifier(self.args.suggest)
        stored = (image for split in self.splits.values() for image in split[columns.IMAGE])
        bar = progress_bar(zip(self.names, stored, strict=True), total=len(self.names), unit="image", leave=False)
        rows: Iterable[dict[str, Any]] = classifier.predict(bar, 1, None, BATCH)
        return {row["file_name"]: (row["label"], round(row["probability"], 4)) for row in rows if not row["reason"]}

    def _suggested_in_words(self, suggestions: dict[str, tuple[str, float]]) -> str:
        if suggestions and self.args.format == "fiftyone":
            return "; its format has no place for suggestions"
        return f", {len(suggestions):,} with a suggestion" if suggestions else ""


def _label(line: dict[str, Any]) -> str:
    return NONE_OF_THESE if line.get("none") else line["label"]


def _classes_of(splits: DatasetDict) -> tuple[list[str], bool]:
    """Their names, and whether there are any: a folder of images may have none yet."""
    if not any(columns.LABEL in split.column_names for split in splits.values()):
        return [], False
    id2label = class_names(splits)[1]
    return [id2label[label] for label in sorted(id2label)], True


def exchange_labels(args: LabelArguments, data: DataArguments, folder: str, say: Say) -> None:
    exchange = Exchange(args, data, folder, say)
    if args.import_file:
        exchange.add()
    else:
        exchange.write()

"""
`g4i label`: which images a person should look at, and what they answer; and the server of its page, for this machine
alone, which writes each answer to disk before it replies.
"""

import contextlib
import json
import secrets
import shlex
import sys
import threading
import webbrowser
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from .. import columns
from ..data.checks import labels_of
from ..data.classes import in_another_case, same_form
from ..data.images import UndecodableImage, clean_jpeg
from ..data.labels import DISAGREEMENTS, GOLD, NONE, file_names, line_of, read_people, reviews_of, votes_of
from ..data.loading import images_root, labels_file_of
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
SIDE = 640  # pixels of an image
LARGEST = 10_000  # bytes of a request
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


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
            data.class_names_file = str(config_of(args.run))
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
        self.votes = votes_of(self.images, images.id2label)[1]
        self._take_own()
        self.gold = len(images.splits.get(GOLD, ()))
        self.begin()

    def _take_own(self) -> None:
        """Where others answered too, the answers of this person alone are those that can be undone."""
        people = read_people(self.file)
        if all(by == self.args.by for lines in people.values() for by in lines):
            return
        index = {same_form(name): label for label, name in enumerate(self.classes)}
        for row, name in enumerate(self.names):
            own = people.get(name, {}).get(self.args.by, {})
            is_own = bool(own) and own.get("digest") in (None, self.digests[row])
            self.before[row] = own["pick"] if is_own else ""
            if is_own:
                self.given[row] = -1 if own.get("none") else index[same_form(own["label"])]

    def begin(self) -> None:
        self.labels, self.reviews = self.given.copy(), self.before.copy()
        lines = [line for lines in read_people(self.file).values() for line in lines.values()]
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
            highest = np.where(self.votes >= 0, self.votes, -1).max(1, initial=-1)
            differ = ((self.votes >= 0) & (self.votes != highest[:, None])).any(1)
            rows = np.flatnonzero(is_open & differ)
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

    def class_of(self, name: str) -> int:
        """The class of this name, a new one unless there is one; NotSaved for a name that differs in case only."""
        name = same_form(" ".join(name.split()))
        known = list(map(same_form, self.classes))
        if (other := in_another_case(name, self.classes)) is not None:
            raise NotSaved(f"There is a class {other!r}: type the name again to choose it.")
        if name not in known:
            self.new, self.classes = self.new | {name}, [*self.classes, name]
            self.views = {name: view.with_another_class() for name, view in self.views.items()}
            self.probabilities = np.pad(self.probabilities, ((0, 0), (0, 1)))
            return len(known)
        return known.index(name)

    def answer(
        self, append: Callable[[str], None], row: int, label: int | None, none: bool = False, undo: bool = False
    ) -> None:
        """Appends a line, then counts the answer; an undone one gives way to the one before. NotSaved if it fails."""
        pick: str = self.args.pick
        if undo and self.before[row]:
            label, pick = int(self.given[row]), str(self.before[row])
            label, none = (None, True) if label < 0 else (label, False)  # the answer before was none of these
        text = None if label is None else self.classes[label]
        by_name = columns.IMAGE_ID if self.root is None else "file_name"
        line = line_of(self.names[row], by_name, self.digests[row], pick, text, none, text in self.new, self.args.by)
        try:
            append(line)
        except OSError as error:
            what = f"{self.file} cannot be written ({error.strerror})"
            raise NotSaved(f"{what}. Correct that, then answer again.") from error
        self.labels[row] = -1 if none else self.given[row] if label is None else label
        self.reviews[row] = NONE if none else pick if label is not None else ""
        if not self.shown[row]:  # but on a page that was opened before this one
            self.shown[row], self.left = True, max(self.left - 1, 0)

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
        data = {"classes": self.classes, "pick": pick, "hides": pick == GOLD, "then": self.following}
        return page("label.html.j2", data=data, nonce=nonce)


# --- The server ------------------------------------------------------------------------------------------------------


class NotSaved(Exception):
    """Why an answer was not saved, for the page, which keeps showing the image."""


class LabelServer(ThreadingHTTPServer):
    """
    Serves the page at `address`, which holds a random token. Requests without it, for another host or from another
    origin get 403. `append` writes a line of `labels.jsonl`.
    """

    daemon_threads = True

    def __init__(self, labelling: Labelling, append: Callable[[str], None]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.labelling, self.append = labelling, append
        self.token, self.nonce = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self.host, self.lock = f"127.0.0.1:{self.server_port}", threading.Lock()
        self.address = f"http://{self.host}/{self.token}/"

    def answer(
        self, row: int, label: int | str | None = None, none: bool = False, undo: bool = False
    ) -> dict[str, Any]:
        """
        Writes an answer; `label` is a class or the name of a new one, to which the reply is all classes. A ValueError
        for what no page sends.
        """
        labelling = self.labelling
        is_row = type(row) is int and 0 <= row < len(labelling.names)
        is_label = label is None or (type(label) is int and 0 <= label < len(labelling.classes))
        is_label |= type(label) is str and label.isprintable() and bool(label.strip())
        if not is_row or not is_label or (label is not None) + (none is True) + (undo is True) != 1:
            raise ValueError("no answer")
        with self.lock:
            named = labelling.class_of(label) if isinstance(label, str) else label
            labelling.answer(self.append, row, named, none, undo)
            return {"label": named} | ({"classes": labelling.classes} if isinstance(label, str) else {})

    def handle_error(self, *request: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # of a browser that no longer waits for an image
            super().handle_error(*request)

    def more(self) -> dict[str, Any]:
        with self.lock:
            items = self.labelling.items()
            return {"items": items, "waiting": self.labelling.waiting(), "classes": self.labelling.classes}


class Handler(BaseHTTPRequestHandler):
    server: LabelServer

    def do_GET(self) -> None:
        place = self._place()
        if place == "":
            with self.server.lock:
                self.server.labelling.reopen()
            self._reply(200, self.server.labelling.page(nonce=self.server.nonce).encode(), "text/html; charset=utf-8")
        elif place is not None and place.removeprefix("image/").isdecimal():
            self._image(int(place.removeprefix("image/")))
        else:
            self._reply(403 if place is None else 404)

    def do_POST(self) -> None:
        place, length = self._place(), self.headers.get("Content-Length", "")
        calls: dict[str, Callable[..., dict]] = {"answer": self.server.answer, "more": self.server.more}
        called = calls.get(place or "")
        is_json = self.headers.get("Content-Type") == "application/json"
        if called is None or not is_json or not length.isdecimal() or int(length) > LARGEST:
            return self._reply(403)
        try:
            reply = called(**json.loads(self.rfile.read(int(length))))
        except (TypeError, ValueError, RecursionError):
            return self._reply(400)
        except NotSaved as error:
            return self._reply_json(409, {"error": str(error), "classes": self.server.labelling.classes})
        self._reply_json(200, reply)

    def _reply_json(self, status: int, content: dict[str, Any]) -> None:
        self._reply(status, json.dumps(content).encode(), "application/json")

    def _place(self) -> str | None:
        """The path below the token; None for a request that is not from the page or the browser's address bar."""
        _, token, *rest = [*self.path.split("/", 2), "", ""]
        known = secrets.compare_digest(token.encode(), self.server.token.encode())
        is_own = self.headers.get("Origin") in (None, f"http://{self.server.host}")
        return rest[0] if known and is_own and self.headers.get("Host") == self.server.host else None

    def _image(self, row: int) -> None:
        images = self.server.labelling.images
        try:
            self._reply(200, clean_jpeg(images[row][columns.IMAGE], SIDE), "image/jpeg")
        except (IndexError, UndecodableImage):
            self._reply(404)

    def _reply(self, status: int, content: bytes = b"", kind: str = "text/plain") -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value.format(nonce=self.server.nonce))
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: the terminal is for answers."""


def serve(
    labelling: Labelling, append: Callable[[str], None], say: Callable[[str], object], opens_browser: bool
) -> None:
    """Until Ctrl+C."""
    labelling.compute()
    picked = labelling.picked(labelling.left)
    if not picked.size:
        say(labelling.nothing())
        return
    if labelling.args.pick == GOLD and (labelled := int((labelling.given[picked] >= 0).sum())):
        say(f"{labelled:,} of these {len(picked):,} images have a label. They will judge, and no longer train.")
    with LabelServer(labelling, append) as server:
        say(f"Answers: {labelling.file}")
        say(f"Page:    {server.address} (for this machine alone; end with Ctrl+C)")
        if opens_browser:
            webbrowser.open(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    number = int(labelling.answered.sum())
    saved = {0: "No image was answered.", 1: f"1 answer is in {labelling.file}."}
    following = f" {labelling.following}" if number else ""
    say(saved.get(number, f"{number:,} answers are in {labelling.file}.") + following)

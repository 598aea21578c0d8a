"""The kinds of views: how users write them, with their words. A new kind is an entry of `KINDS`, and its maker."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CAPTION, ANSWER, IMAGE = "caption", "answer", "image"
STUDENT_VIEW = f"{IMAGE}:student"
OWN_VIEWS = CAPTION, ANSWER, STUDENT_VIEW  # those that `g4i fit` makes itself
IMAGE_FORMS = f"{STUDENT_VIEW}, image:NAME of an encoder"


@dataclass(frozen=True)
class ViewKind:
    name: str  # the part of a view's name before the colon
    forms: str  # as users write it
    maker: str  # module of this package, and its subclass of `stages.Maker`, which is imported where a view is made
    words: str  # what tells classes
    words_with_name: str | None = None  # the same with the part after the colon
    self_trains: bool = False  # see [`~g4i_hf.View`]; then `words` are also the source of views without class names


KINDS = {
    kind.name: kind
    for kind in (
        ViewKind(CAPTION, CAPTION, "making:Captions", "captions"),
        ViewKind(ANSWER, ANSWER, "making:Answers", "answers"),
        ViewKind(IMAGE, IMAGE_FORMS, "encoders:Encoders", "image features", "features of {}", self_trains=True),
        ViewKind("scores", "scores:COLUMN", "making:Scores", "scores", "scores in {}"),
    )
}
VIEW_FORMS = ", ".join(kind.forms for kind in KINDS.values())


def kind_of(view: str) -> ViewKind | None:
    """By its name; None for a folder or a view of the caller's own."""
    return KINDS.get(view.partition(":")[0])


def check_view(view: str) -> None:
    """Raise ValueError for anything but the name of a view."""
    kind, (_, colon, what) = kind_of(view), view.partition(":")
    if kind is None or (not what if ":" in kind.forms else colon):
        raise ValueError(f"There is no view {view!r} (views): {VIEW_FORMS}, or the folder of one.")


def view_in_words(name: str, share: float) -> str:
    """The accuracy of a view in a report."""
    kind, what = kind_of(name), name.partition(":")[2]
    words = kind and (kind.words_with_name and kind.words_with_name.format(what) if what else kind.words)
    return f"{f'{words} tell' if words else f'the view {name!r} tells'} the class of {share:.0%} of the images"


def taught_by(views: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What tells classes beside image features, in words, by the report of a label model."""
    kinds = {name: kind_of(name) for name, line in views.items() if not line.get("left_out")}
    used = {kind.words if kind else "views of your own" for kind in kinds.values()}
    if any(kind is KINDS[IMAGE] and views[name].get("class_names") for name, kind in kinds.items()):
        used.add("class names")
    names = [kind.words for kind in KINDS.values() if kind.name != IMAGE]
    return [words for words in (*names, "class names", "views of your own") if words in used]

"""Which of the two classifiers `g4i fit` releases."""

from dataclasses import dataclass

from ..evaluation.estimate import CANNOT_TELL, HURT
from ..names import LABELS_ONLY, WITH_VIEWS

ASKED, VIEWS_HURT, NOT_CLEARLY_WORSE, EXPECTED = "asked", "views hurt", "not clearly worse", "expected"


@dataclass(frozen=True)
class Choice:
    released: str  # `labels_only` or `with_views`
    why: str  # one of the constants above


def decide(verdict: str | None, release: str = "auto") -> Choice:
    """
    With views, unless they hurt: the 95% interval of the difference lies below 0, so that chance on a few images
    decides nothing. The option `release` overrules this. Without a classifier on labels only there is no verdict.
    """
    by_verdict = LABELS_ONLY if verdict == HURT else WITH_VIEWS
    if release not in ("auto", by_verdict):
        return Choice(release, ASKED)
    return Choice(by_verdict, {HURT: VIEWS_HURT, CANNOT_TELL: NOT_CLEARLY_WORSE}.get(verdict, EXPECTED))

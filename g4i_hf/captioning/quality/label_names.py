"""Whether a caption names its class: the label, a part of it, or another word that the user gives."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...files import read_mapping

UNKNOWN, NOT_NAMED, NAMED = -1, 0, 1

_WORDNET_ID = re.compile(r"n\d{8}[-_ ]*")
_NUMBERED = re.compile(r"\d+[.)_-]+(?=[^\W\d])")  # 005.Crested_Auklet
_MEANINGLESS = re.compile(r"(?:label|class)?[\s_-]*\d*", re.I)
_IN_BRACKETS = re.compile(r"\s*\([^()]*\)")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z][a-z])")
_SPACES = re.compile(r"[\s_\-‐‑–—]+")
# Scripts without spaces between words have no whole words to look for
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")


def read_synonyms(path: str | Path, names: Sequence[str]) -> dict[str, list[str]]:
    """
    Args:
        path: YAML file, `class name: [word, other word]` lines.
        names: the classes.

    Raises:
        ValueError: when it is no such file, or names a class that there is not.
    """
    try:
        found = read_mapping(Path(path))
    except (OSError, ValueError) as error:
        wanted = "it must hold `class name: [word, other word]` lines"
        why = " ".join(str(error).split())
        raise ValueError(f"synonyms_file {str(path)!r} cannot be read; {wanted}: {why}") from error
    by_text = {str(name): name for name in names}
    synonyms: dict[str, list[str]] = {}
    for name, words in found.items():
        if str(name) not in by_text:
            import difflib

            near = difflib.get_close_matches(str(name), by_text, n=1)
            hint = (
                f" Did you mean {near[0]!r}?" if near else f" The classes begin with {', '.join(list(by_text)[:5])}."
            )
            raise ValueError(f"synonyms_file {str(path)!r} names the class {str(name)!r}, which does not exist.{hint}")
        words = [words] if isinstance(words, str) else words
        if not isinstance(words, list) or not all(isinstance(word, (str, int, float)) for word in words):
            raise ValueError(f"synonyms_file {str(path)!r}, class {str(name)!r}: give a list of words.")
        synonyms[str(name)] = [str(word) for word in words]
    return synonyms


def terms_of(name: str, synonyms: Sequence[str] = ()) -> list[str]:
    """
    What a caption may call a class: each part of `tench, Tinca tinca`, with spaces for underscores and hyphens,
    without numbers before it or an explanation in brackets. Empty for a name without meaning such as `LABEL_3`.
    """
    terms = []
    name = _NUMBERED.sub("", _WORDNET_ID.sub("", name, count=1), count=1)
    for part in [*(part for part in _IN_BRACKETS.sub("", name).split(",")), *synonyms]:
        part = _SPACES.sub(" ", _CAMEL_CASE.sub(" ", part)).strip().casefold()
        is_digit = part.isdecimal() and len(part) <= 2  # of digits, a class may be called 7
        if part and part not in terms and (is_digit or not _MEANINGLESS.fullmatch(part)):
            terms.append(part)
    return terms


def pattern_of(terms: Sequence[str]) -> re.Pattern | None:
    """Finds any of the terms as whole words in text in lower case, one or many of it; None without terms."""
    alternatives = []
    for term in terms:
        *before, last = term.split(" ")
        forms = "|".join(sorted(map(re.escape, _forms(last)), key=len, reverse=True))
        found = r"[\s_\-‐‑–—]+".join([*map(re.escape, before), f"(?:{forms})"])
        alternatives.append(found if _UNSPACED.search(term) else rf"(?<![^\W_]){found}(?![^\W_])")
    return re.compile("|".join(alternatives)) if alternatives else None


def names_label(
    captions: Sequence[str | None],
    labels: np.ndarray,
    names: Sequence[str],
    synonyms: dict[str, list[str]] | None = None,
) -> np.ndarray:
    """
    Args:
        captions: a text or None each.
        labels: (N,) class of each, -1 where there is none.
        names: of the classes.
        synonyms: other words for a class.

    Returns:
        (N,) int8: 1 where the caption names its class, 0 where it does not, -1 without caption, label or a class
        name that means anything.
    """
    patterns = [pattern_of(terms_of(str(name), (synonyms or {}).get(str(name), ()))) for name in names]
    named = np.full(len(captions), UNKNOWN, dtype=np.int8)
    for row, (caption, label) in enumerate(zip(captions, labels, strict=True)):
        pattern = patterns[label] if caption is not None and label >= 0 else None
        if pattern is not None:
            named[row] = NAMED if pattern.search(caption.casefold()) else NOT_NAMED
    return named


def _forms(word: str) -> set[str]:
    """A word in singular and plural, as far as endings tell: dog, dogs; berry, berries; fox, foxes; leaf, leaves."""
    singulars = {word}
    if len(word) > 3 and word.isalpha():
        if word.endswith("ies") and len(word) > 4:
            singulars.add(word[:-3] + "y")
        elif re.search(r"(?:s|x|z|ch|sh|o)es$", word):
            singulars |= {word[:-2], word[:-1]}
        elif re.search(r"[^siu]s$", word):
            singulars.add(word[:-1])
    forms = set(singulars)
    for one in singulars:
        if not one.isalpha():
            continue
        forms |= {f"{one}s", f"{one}'s"}
        if re.search(r"(?:s|x|z|ch|sh|o)$", one):
            forms.add(f"{one}es")
        if re.search(r"[^aeiou]y$", one):
            forms.add(f"{one[:-1]}ies")
        if re.search(r"(?:[^f]f|fe)$", one):
            forms.add(f"{re.sub('fe?$', '', one)}ves")
        if one.endswith("man"):
            forms.add(f"{one[:-3]}men")
    return forms

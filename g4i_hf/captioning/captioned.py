"""The columns of the captioning stage, built from the journal or from captions that exist already."""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from datasets import Dataset, Features, List, Value

from .. import columns
from .answers import FAILURES, OK
from .cleaning.clean import clean
from .journal.reader import Journal
from .questions import SplitQuestions
from .stream_questions import StreamQuestions

RAW, STATUS, REASON = columns.CAPTION_RAW, columns.CAPTION_STATUS, columns.CAPTION_REASON
CLEANED = "caption_cleaned"
MISSING = "missing"  # nobody was asked, or nobody wrote one
BATCH = 1000
# Addresses and paths in what servers and libraries say: the journal keeps them, a published column does not
PRIVATE = re.compile(
    r"\b[a-z][a-z0-9+.-]*://[^\s,;)'\"]+|(?<![\w.])~?(?:/[^\s/:,;)'\"]+){2,}/?|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"
)


def caption_features(several: bool) -> Features:
    """
    Columns beside `image_id`, a list each where an image has several captions, in the order of the prompts:
    `caption` (null where there is none), `caption_raw` (the answer as it came), `caption_status` (`ok`, `missing` or
    one of [`~g4i_hf.captioning.answers.FAILURES`]), `caption_reason` (of a failure) and `caption_cleaned` (what was
    done to the answer, with commas).
    """
    kind = List(Value("string")) if several else Value("string")
    return Features(
        {
            columns.IMAGE_ID: Value("string"),
            columns.CAPTION: kind,
            RAW: kind,
            STATUS: kind,
            REASON: kind,
            CLEANED: kind,
        }
    )


def journal_columns(
    questions: SplitQuestions | StreamQuestions, journal: Journal, cleaning: bool, partial: bool = False
) -> Dataset:
    """
    The columns of a split from the answers in the journal, by `datasets.map`: images are not opened, order is kept.

    Args:
        partial: many rows have no answer, so that those without are not looked for any further.
    """
    several = questions.prompts.several

    def fill(batch: dict[str, list], numbers: list[int]) -> dict[str, list]:
        rows = (
            [_from_record(record, cleaning) for record in records]
            for records in questions.records(journal, batch, numbers, look_closer=not partial)
        )
        return _as_columns(batch[columns.IMAGE_ID], rows, several)

    light = questions.light
    said = [light._fingerprint, questions.keys.key("", ""), str(len(journal)), repr(cleaning), str(several)]
    return light.map(
        fill,
        batched=True,
        batch_size=BATCH,
        with_indices=True,
        remove_columns=light.column_names,
        features=caption_features(several),
        load_from_cache_file=False,
        new_fingerprint=hashlib.blake2b(repr(said).encode(), digest_size=8).hexdigest(),
        desc=f"Captions of {questions.name}",
    )


def given_columns(split: Dataset, captions: list[Any], several: bool, cleaning: bool) -> Dataset:
    """
    The columns of a split from captions that exist already.

    Args:
        split: rows with `image_id`.
        captions: text, list of texts or None, a row each, in the order of the split.
        several: whether rows can have more than one.
        cleaning: whether they are cleaned.
    """

    def fill(batch: dict[str, list], numbers: list[int]) -> dict[str, list]:
        rows = ([_from_text(text, cleaning) for text in _texts(captions[number], several)] for number in numbers)
        return _as_columns(batch[columns.IMAGE_ID], rows, several)

    digest = hashlib.blake2b(str(cleaning).encode(), digest_size=8)
    for caption in captions:
        digest.update(repr(caption).encode())
    ids = split.select_columns([columns.IMAGE_ID])
    return ids.map(
        fill,
        batched=True,
        batch_size=BATCH,
        with_indices=True,
        remove_columns=[columns.IMAGE_ID],
        features=caption_features(several),
        load_from_cache_file=False,
        new_fingerprint=digest.hexdigest(),
        desc="Cleaning captions",
    )


def needs_another_try(cleaning: bool) -> Callable[[Journal, Any], bool]:
    """For `retry_failed`: whether an answer in the journal is none, or becomes none when it is cleaned."""

    def failed(journal: Journal, entry: Any) -> bool:
        return not entry.ok or _from_record(journal.read(entry), cleaning)[2] != OK

    return failed


def _from_record(record: dict[str, Any] | None, cleaning: bool) -> tuple[str | None, ...]:
    """caption, raw, status, reason, cleaned."""
    if record is None:
        return None, None, MISSING, "was not asked", ""
    if record["status"] != OK:
        reason = record["reason"] or FAILURES.get(record["status"])
        return None, record["text"], record["status"], PRIVATE.sub("...", reason or ""), ""
    return _from_text(record["text"], cleaning, record["finish_reason"])


def _from_text(text: str | None, cleaning: bool, finish_reason: str | None = None) -> tuple[str | None, ...]:
    if text is None:
        return None, None, MISSING, "no caption was given", ""
    cleaned = clean(text, finish_reason, cleaning)
    return cleaned.caption, text, cleaned.status, FAILURES.get(cleaned.status), ",".join(cleaned.applied)


def _texts(caption: Any, several: bool) -> list[str | None]:
    if not several:
        return [caption]
    return caption if isinstance(caption, list) else [] if caption is None else [caption]


def _as_columns(image_ids: list[str], rows: Iterator[list[tuple]], several: bool) -> dict[str, list]:
    names = (columns.CAPTION, RAW, STATUS, REASON, CLEANED)
    found: dict[str, list] = {columns.IMAGE_ID: image_ids} | {name: [] for name in names}
    for row in rows:
        for position, name in enumerate(names):
            values = [answer[position] for answer in row]
            found[name].append(values if several else values[0])
    return found

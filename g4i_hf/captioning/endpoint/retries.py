"""Which errors of a server are tried again, after how long, and when it is time to stop."""

import json
import math
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from ..answers import Answer, whole_characters

RETRY, REJECTED, FATAL = "retry", "rejected", "fatal"
# Conflict and "too early" pass by themselves; the others are of this request alone, or of the whole set-up
_RETRIED = {408, 409, 425, 429}
_FATAL = {401, 402, 403, 404, 405, 407, 410}
_OVERLOADED = {429, 503}

FIRST_BACKOFF = 0.5  # seconds
LONGEST_BACKOFF = 60.0
LONGEST_WAIT = 15 * 60.0  # a server may ask for, before the run is better ended

_IMAGE_DATA = re.compile(r"data:image/[\w.+-]+;base64,[A-Za-z0-9+/=]{16,}")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|s|m|h|d)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Refusal(Exception):
    """
    A reply with an error status.

    Attributes:
        status: of HTTP.
        headers: of the reply.
        message: the server's, without tokens and image data.
        url: that was asked, without query.
    """

    def __init__(self, status: int, headers: Mapping[str, str], message: str, url: str):
        super().__init__(f"{status}: {message}" if message else str(status))
        self.status, self.headers, self.message, self.url = status, headers, message, url

    @property
    def treatment(self) -> str:
        """`retry`, `rejected` (this question alone) or `fatal` (every question would fare the same)."""
        if self.status in _RETRIED or self.status >= 500:
            return RETRY
        return FATAL if self.status in _FATAL or self.status < 400 else REJECTED

    @property
    def overload(self) -> bool:
        """The server said that it is too much, or not ready."""
        return self.status in _OVERLOADED


class UselessReply(Exception):
    """A reply with status 200 that holds no answer: no JSON, or no choices."""


def server_message(body: bytes | str, secrets: tuple[str, ...] = (), limit: int = 300) -> str:
    """
    What a server says of an error, in a line.

    Args:
        body: of the reply; the message of OpenAI's, FastAPI's or TGI's JSON is found, else the text is taken.
        secrets: are blotted out.
        limit: characters.
    """
    text = body[:100_000]
    text = text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text
    try:
        found = json.loads(text)
    except ValueError:
        pass
    else:
        for _ in range(3):
            if not isinstance(found, dict):
                break
            found = next((found[key] for key in ("error", "message", "detail", "errors") if found.get(key)), found)
        text = found if isinstance(found, str) else json.dumps(found)
    if text.lstrip().startswith("<"):
        text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    text = _IMAGE_DATA.sub("(image)", text)
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(whole_characters(text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def backoff(attempt: int, generator: random.Random) -> float:
    """
    Seconds to wait after an attempt, counted from 1: anything between nothing and a bound that doubles each time, so
    that many clients do not come back at once.
    """
    return generator.uniform(0, min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (attempt - 1)))


def seconds_of(text: str | None) -> float | None:
    """`1s`, `6m0s`, `120ms`, `1h2m3.5s`, or a plain number of seconds; None for anything else."""
    text = (text or "").strip().lower()
    try:
        number = float(text)
    except ValueError:
        parts = _DURATION_PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            return None
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not math.isfinite(number) or number < 0:
        return None
    # Some count from 1970
    return max(0.0, number - time.time()) if number > 1e9 else number


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply asks to wait for: `retry-after-ms`, or `Retry-After` in seconds or as a date."""
    milliseconds = seconds_of(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = seconds_of(value)
    if seconds is not None or not value:
        return seconds
    try:
        until = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError):
        return None
    try:  # by the server's own clock, where it tells
        now = parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, TypeError):
        now = time.time()
    return max(0.0, until - now)


def exhausted_for(headers: Mapping[str, str]) -> float:
    """Seconds until a rate limit of which nothing remains is renewed; 0 while something remains."""
    wait = 0.0
    for kind in ("requests", "tokens"):
        if headers.get(f"x-ratelimit-remaining-{kind}", "").strip() in ("0", "0.0"):
            wait = max(wait, seconds_of(headers.get(f"x-ratelimit-reset-{kind}")) or 0.0)
    if headers.get("ratelimit"):  # of Hugging Face: "api";r=0;t=55
        found = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers["ratelimit"])
        wait = max(wait, float(found[1]) if found else 0.0)
    return wait


def failure(error: Exception, treatment: str, reason: str, seconds: float, attempts: int) -> Answer:
    """What is said of a question that no attempt answered, after the last error."""
    status = "timeout" if isinstance(error, TimeoutError) else "failed"
    return Answer("rejected" if treatment == REJECTED else status, None, reason, seconds=seconds, attempts=attempts)


@dataclass
class Breaker:
    """
    Notices that a server answers nothing any more.

    Args:
        attempts: as many failures in a row, and
        seconds: as long since the first of them; or
        rejections: as many rejected questions before any was answered.
        questions: an error that the server itself sends must have met as many different questions, since a few
            images may well be ones that it fails on.

    Attributes:
        last: error of the last failure.
        answers: good replies so far.
        in_a_row: failures since the last reply that was not one.
    """

    attempts: int = 20
    seconds: float = 30.0
    rejections: int = 20
    questions: int = 10
    last: str = ""
    answers: int = 0
    in_a_row: int = 0
    _since: float = 0.0
    _rejected: int = 0
    _unreachable: bool = False
    _asked: set[str] = field(default_factory=set)

    def answered(self) -> None:
        """A good reply came."""
        self.answers += 1
        self._end_row()

    def rejected(self, reason: str) -> None:
        """The server works, but refuses this question."""
        self._rejected += 1
        self.last = reason
        self._end_row()

    def failed(self, question: str, reason: str, now: float, unreachable: bool) -> None:
        """
        Args:
            question: by whatever names it.
            reason: the error.
            now: in seconds.
            unreachable: nothing could be sent.
        """
        self._since = self._since if self.in_a_row else now
        self.in_a_row += 1
        self._unreachable = unreachable  # a server that dies loses connections before it refuses them
        self.last = reason
        if len(self._asked) < self.questions:
            self._asked.add(question)

    def open(self, now: float) -> bool:
        """Whether to stop."""
        long_enough = self.in_a_row >= self.attempts and now - self._since >= self.seconds
        return self._rejects_all or (self.hopeless and long_enough)

    @property
    def hopeless(self) -> bool:
        """Whether it is the server, rather than the questions, for all that can be told when no attempt is left."""
        if self._rejects_all or self._unreachable:
            return True
        return self.in_a_row >= self.attempts and len(self._asked) >= self.questions

    @property
    def _rejects_all(self) -> bool:
        return self._rejected >= self.rejections and not self.answers

    def _end_row(self) -> None:
        self.in_a_row, self._unreachable = 0, False
        self._asked.clear()

"""Parses replies of OpenAI-compatible servers: answers, error messages, and how long to wait."""

import json
import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from .answers import OK, Answer, whole_characters


class UselessReply(Exception):
    """A reply with status 200 that holds no answer: no JSON, or no choices."""


def answer_in(content: bytes) -> Answer:
    """
    The answer in a chat completion, with status `ok`, `empty` or `refused`.

    Raises:
        UselessReply: for anything but a completion with a message.
    """
    try:
        reply = json.loads(content)
        choice = reply["choices"][0]
        message = choice["message"]
        text, finish_reason, usage = message.get("content"), choice.get("finish_reason"), reply.get("usage") or {}
        if isinstance(text, list):
            text = "".join(part["text"] for part in text if part.get("type") == "text")
        tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        said = error_message(content) if b'"error"' in content[:1000] else type(error).__name__
        raise UselessReply(f"a reply that is no chat completion ({said})") from error
    answer = Answer(OK, whole_characters(text) if isinstance(text, str) else None, finish_reason=finish_reason)
    answer.prompt_tokens, answer.completion_tokens = (n if isinstance(n, int) else None for n in tokens)
    if answer.text is None or not answer.text.strip():
        answer.status, answer.reason = _why_empty(message, finish_reason)
    return answer


def _why_empty(message: dict[str, Any], finish_reason: str | None) -> tuple[str, str]:
    if message.get("refusal"):
        return "refused", error_message(str(message["refusal"]))
    if finish_reason == "content_filter":
        return "refused", "the server's content filter"
    if finish_reason == "length" and (message.get("reasoning") or message.get("reasoning_content")):
        return "empty", "all tokens went into reasoning; raise max_new_tokens, or turn reasoning off at the server"
    return "empty", "an answer without text"


def error_message(body: bytes | str, secret: str | None = None, limit: int = 300) -> str:
    """The error message of a server in one line, without JSON, HTML, image data and secrets."""
    text = body[:100_000]
    text = text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text
    try:
        found = json.loads(text)
        while isinstance(found, dict):
            found = next((found[key] for key in ("error", "message", "detail") if found.get(key)), json.dumps(found))
        text = found if isinstance(found, str) else json.dumps(found)
    except (ValueError, RecursionError):
        pass
    if text.lstrip().startswith("<"):
        text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    text = re.sub(r"data:image/[\w.+-]+;base64,[A-Za-z0-9+/=]{16,}", "(image)", text)
    text = text.replace(secret, "***") if secret else text
    text = " ".join(whole_characters(text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def seconds_of(text: str | None) -> float | None:
    """Seconds in `1s`, `6m0s`, `120ms`, a plain number, or a time since 1970; None for anything else."""
    text = (text or "").strip().lower()
    units = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * units[unit] for number, unit in parts)
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number) or number < 0:
        return None
    return max(0.0, number - time.time()) if number > 1e9 else number


def wait_asked_for(headers: Mapping[str, str]) -> float:
    """
    Seconds that a reply asks to wait: `retry-after-ms`, `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), or
    until a rate limit of which nothing remains is renewed; 0 where it does not say.
    """
    milliseconds, value = seconds_of(headers.get("retry-after-ms")), headers.get("retry-after")
    if milliseconds is not None:
        return milliseconds / 1000
    if (seconds := seconds_of(value)) is not None:
        return seconds
    try:
        until = parsedate_to_datetime(value).timestamp()
        return max(0.0, until - time.time())
    except (ValueError, TypeError):
        return exhausted_for(headers)


def exhausted_for(headers: Mapping[str, str]) -> float:
    """Seconds until a rate limit of which nothing remains is renewed; 0 while something remains."""
    wait = 0.0
    for kind in ("requests", "tokens"):
        if headers.get(f"x-ratelimit-remaining-{kind}", "").strip() in ("0", "0.0"):
            wait = max(wait, seconds_of(headers.get(f"x-ratelimit-reset-{kind}")) or 0.0)
    # Of Hugging Face: "api";r=0;t=55
    found = re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)", headers.get("ratelimit", ""))
    return max(wait, float(found[1])) if found else wait

"""An OpenAI-compatible server: its address and token, one request and its reply, and whether it works."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import openai
from huggingface_hub import get_token, is_offline_mode

from .. import __version__
from .answers import OK, Answer, Question, whole_characters

IN_A_ROW = 8  # questions in a row that failed: the server is the reason
REJECTIONS = 20  # before any answer: the model is wrong rather than the images
# Seconds without an answer until a server is given up; longer for one that is loading a model or has worked before
GIVE_UP_SECONDS, WAIT_SECONDS = 30.0, 300.0
CONNECT_SECONDS, KEEP_ALIVE_SECONDS = 15.0, 4.0  # the latter below the 5 of uvicorn, which serves most of them
LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP_ALIVE_SECONDS)
POOLS = 32  # pools of connections, see `_Transport`
SHORTEST_SECRET, LONGEST_ERROR = 8, 300  # letters
LARGEST_REPLY = 4 << 20  # bytes; a reply with reasoning of 32,000 tokens has 0.2 MB


def addresses_of(base_url: str | None) -> list[str]:
    """The addresses in `base_url`, each once. ValueError for none, another protocol, or a password in it."""
    addresses = list(dict.fromkeys(part.strip().rstrip("/") for part in (base_url or "").split(",") if part.strip()))
    if not addresses:
        raise ValueError("base_url is not given; name the server, as in http://localhost:8000/v1.")
    for address in addresses:
        parts = urlsplit(address)
        if "@" in parts.netloc:
            raise ValueError(
                f"base_url holds a user or password for {parts.hostname}; put a token into an environment variable, "
                "and name that variable in api_key_env."
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base_url is {address}; it must look like http://localhost:8000/v1.")
        if is_offline_mode() and is_hugging_face(address):
            raise ValueError(f"HF_HUB_OFFLINE is set, and {address} is a host of Hugging Face; unset it to go on.")
    return [address if urlsplit(address).path else f"{address}/v1" for address in addresses]


def is_hugging_face(address: str) -> bool:
    """Whether a token of Hugging Face may go there: only to its own hosts, and only encrypted."""
    parts = urlsplit(address)
    host = (parts.hostname or "").lower()
    own = host == "huggingface.co" or host.endswith((".huggingface.co", ".huggingface.cloud"))
    return own and parts.scheme == "https"


def token_for(address: str, api_key_env: str | None) -> str | None:
    """The token for an address. ValueError where the environment variable is not set or holds no token."""
    if api_key_env is None:
        return get_token() if is_hugging_face(address) else None
    token = os.environ.get(api_key_env, "").strip()
    if not token:
        raise ValueError(f"api_key_env is {api_key_env}, but that environment variable is not set: export it.")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"The environment variable {api_key_env} holds no token: spaces or special characters in it.")
    return token


def proxy_for(address: str) -> str | None:
    """The proxy that the environment names for an address (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY)."""
    parts, proxies = urlsplit(address), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


class _Transport(httpx2.AsyncBaseTransport):
    """Reads whole replies, up to a limit. Requests take turns over pools: one of hundreds of connections is slow."""

    def __init__(self, proxy: str | None):
        context = httpx2.create_ssl_context()  # one for all: each reads every certificate
        self._pools = [httpx2.AsyncHTTPTransport(context, limits=LIMITS, proxy=proxy) for _ in range(POOLS)]
        self._turns = itertools.cycle(self._pools)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """UselessReply for a reply of more than LARGEST_REPLY bytes, as sent or after decompression."""
        reply = await next(self._turns).handle_async_request(request)
        content = bytearray()
        async with contextlib.aclosing(reply), contextlib.aclosing(reply.aiter_bytes()) as parts:
            async for part in parts:
                content += part
                if max(len(content), reply.num_bytes_downloaded) > LARGEST_REPLY:
                    raise UselessReply(f"a reply of more than {LARGEST_REPLY >> 20} MB")
        headers = [(name, value) for name, value in reply.headers.raw if name.lower() != b"content-encoding"]
        return httpx2.Response(reply.status_code, headers=headers, content=bytes(content), extensions=reply.extensions)

    async def aclose(self) -> None:
        for pool in self._pools:
            await pool.aclose()


class Server:
    """Sends requests to one address, and keeps count of answers and failures to tell whether it works."""

    def __init__(self, address: str, token: str | None, timeout: float, in_a_row: int = IN_A_ROW):
        self.address, self.name, self.token, self.timeout = address, urlsplit(address).netloc, token, timeout
        self.in_a_row = in_a_row
        self.alive = True  # not given up
        self.in_flight = self.answers = self.rejections = 0
        self.takes_choices: bool | None = None  # a schema of the answers; None: unknown
        # Since the last answer: failures of each question, the time of the first, the last one; status 0: no reply,
        # 200: a useless one
        self.failures: Counter[str] = Counter()
        self.failing_since, self.has_warned = 0.0, False
        self.last_error, self.last_status, self.unreachable = "", 0, False
        # Questions that it failed on or rejected, until it answers another one: the server may be the reason
        self.held: list[tuple[Question, Answer]] = []

    def open(self) -> None:
        """Creates the client, inside the event loop that uses it."""
        # The client would take these from the environment, whatever the address
        omitted = ["OpenAI-Organization", "OpenAI-Project", *([] if self.token else ["Authorization"])]
        self.headers = dict.fromkeys(omitted, openai.Omit())
        self.client = openai.AsyncOpenAI(
            base_url=self.address,
            api_key=self.token or "none",
            max_retries=0,  # by the run, which has other servers and reads replies that are no completions
            timeout=httpx2.Timeout(self.timeout, connect=min(self.timeout, CONNECT_SECONDS)),
            default_headers={"User-Agent": f"g4i_hf/{__version__}", "Accept-Encoding": "identity"},
            # Images go to the host that was named, and to no other
            http_client=httpx2.AsyncClient(transport=_Transport(proxy_for(self.address)), follow_redirects=False),
        )

    async def ask(self, body: dict[str, Any]) -> Answer:
        """Sends one request; raises without an answer."""
        self.in_flight += 1
        try:
            async with asyncio.timeout(self.timeout):  # the client's own time-out restarts with each chunk
                # What `chat.completions.create` does, without its walk through every part of the request
                reply = await self.client.post(
                    "/chat/completions", body=body, options={"headers": self.headers}, cast_to=httpx2.Response
                )
        finally:
            self.in_flight -= 1
        return answer_in(reply.content, self.token)

    # --- Whether it works --------------------------------------------------------------------------------------------

    def answered(self) -> None:
        self.answers += 1
        self._works()

    def reject(self, error: openai.APIStatusError) -> None:
        """The server works, but rejects this question."""
        self.rejections += 1
        self.last_error, self.last_status = self.describe(error), error.status_code
        self._works()

    def _works(self) -> None:
        self.failures.clear()
        self.unreachable = self.has_warned = False

    def fail(self, question: str, error: Exception) -> None:
        """The same question may be answered the next time."""
        if not self.failures:
            self.failing_since = time.monotonic()
        self.failures[question] += 1
        self.last_error, self.last_status = self.describe(error), getattr(error, "status_code", 0)
        self.unreachable = is_unreachable(error)

    @property
    def seconds_of_failures(self) -> float:
        """Since the first one after the last answer."""
        return time.monotonic() - self.failing_since if self.failures else 0.0

    @property
    def is_down(self) -> bool:
        """Whether the failures are those of the server and not of some images: they met many different questions."""
        return self.unreachable or len(self.failures) >= self.in_a_row

    @property
    def patience(self) -> float:
        """Seconds without an answer until it is given up: more if it has worked before, or is loading a model."""
        return WAIT_SECONDS if self.answers or self.last_status == 503 else GIVE_UP_SECONDS

    @property
    def is_lost(self) -> bool:
        if not self.answers:  # it rejects every image, or is no captioning server
            is_useless = self.last_status == 200 and self.failures.total() >= IN_A_ROW
            if is_useless or self.rejections >= REJECTIONS:
                return True
        return self.is_down and self.seconds_of_failures >= self.patience

    # --- What to do about it -----------------------------------------------------------------------------------------

    def why_lost(self, more: str = "") -> str:
        state = "answers nothing any more" if self.answers else "has answered nothing"
        return (
            f"{self.name} {state}. Its last error: {self.last_error.rstrip('.')}{more}. Is it running, is base_url "
            "that of an OpenAI-compatible server, up to /v1, and does captioner_model take images? What has no answer "
            "will be asked again: start the same command once it works."
        )

    async def why_refused(self, error: openai.APIStatusError, model: str, api_key_env: str | None) -> str:
        """The message for an error that every request would meet."""
        status = error.status_code
        if status < 400:
            remedy = "Give that address as base_url, if images may be sent there."
        elif status in (401, 407) and self.token is None:
            remedy = "It needs a token: name the environment variable that holds it in api_key_env."
        elif status in (401, 407):
            where = f"the environment variable {api_key_env}" if api_key_env else "`hf auth login`"
            remedy = f"It does not accept the token: put the right one into {where}."
        elif status in (402, 403):  # which say so themselves
            remedy = f"See to the account, and to its access to {model}."
        else:
            has = "Is base_url right, up to /v1?"
            with contextlib.suppress(Exception):  # not every server has a list
                page = await self.client.with_options(timeout=5.0).models.list()
                has = f"It has {', '.join(str(model.id) for model in page.data[:10])}."
            remedy = f"There is no model {model}, or nothing at {error.request.url.copy_with(query=None)}. {has}"
        return f"{self.name} refuses to answer ({self.last_error}). {redact(remedy, self.token)}"

    def describe(self, error: Exception) -> str:
        """An error in one line, without secrets."""
        if isinstance(error, openai.APIStatusError):
            message = error_message(error.response.content, self.token)
            if error.status_code < 400:
                message = redact(error.response.headers.get("location", "another address"), self.token)
                message = f"redirects to {message[:200]}"
            return f"{error.status_code}: {message}" if message else str(error.status_code)
        if isinstance(error, UselessReply):
            return str(error)
        if isinstance(error, (TimeoutError, openai.APITimeoutError)):
            return "no connection in time" if is_unreachable(error) else f"no answer within {self.timeout:g} s"
        kind = "no connection" if is_unreachable(error) else "the connection was lost"
        cause = error.__cause__ or error
        return error_message(f"{kind} ({str(cause) or type(cause).__name__})", self.token)


def is_unreachable(error: Exception) -> bool:
    return isinstance(error.__cause__, (httpx2.ConnectError, httpx2.ConnectTimeout))


# --- Replies: answers, error messages, and how long to wait ----------------------------------------------------------


class UselessReply(openai.OpenAIError):  # which the client passes on as it is
    """A reply that holds no answer: too large, no JSON, or no choices."""

    status_code = 200


def answer_in(content: bytes, secret: str | None = None) -> Answer:
    """The answer in a chat completion, without secret: `ok`, `empty` or `refused`. UselessReply for anything else."""
    try:
        reply = json.loads(content)
        choice = reply["choices"][0]
        message = choice["message"]
        text, finish_reason, usage = message.get("content"), choice.get("finish_reason"), reply.get("usage") or {}
        if isinstance(text, list):
            text = "".join(part["text"] for part in text if part.get("type") == "text")
        tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = error_message(content, secret) if b'"error"' in content[:1000] else type(error).__name__
        raise UselessReply(f"a reply that is no chat completion ({reason})") from error
    text, finish_reason = (
        redact(whole_characters(value), secret) if isinstance(value, str) else None for value in (text, finish_reason)
    )
    answer = Answer(OK, text, finish_reason=finish_reason)
    answer.prompt_tokens, answer.completion_tokens = (n if isinstance(n, int) else None for n in tokens)
    if answer.text is None or not answer.text.strip():
        answer.status, answer.reason = _why_empty(message, finish_reason, secret)
    return answer


def _why_empty(message: dict[str, Any], finish_reason: str | None, secret: str | None) -> tuple[str, str]:
    if message.get("refusal"):
        return "refused", error_message(str(message["refusal"]), secret)
    if finish_reason == "content_filter":
        return "refused", "the server's content filter"
    if finish_reason == "length" and (message.get("reasoning") or message.get("reasoning_content")):
        return "empty", "all tokens went into reasoning; raise max_new_tokens, or turn reasoning off at the server"
    return "empty", "an answer without text"


def redact(text: str, secret: str | None) -> str:
    """Without the secret. A short one, such as `none` for a server without tokens, is a word like any other."""
    return text.replace(secret, "***") if secret and len(secret) >= SHORTEST_SECRET else text


def error_message(body: bytes | str, secret: str | None = None) -> str:
    """The error message of a server in one line, without JSON, HTML, image data and secrets."""
    text = body[:100_000]
    text = text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text
    try:
        inner = json.loads(text)
        while isinstance(inner, dict):
            inner = next((inner[key] for key in ("error", "message", "detail") if inner.get(key)), json.dumps(inner))
        text = inner if isinstance(inner, str) else json.dumps(inner)
    except (ValueError, RecursionError):
        pass
    if text.lstrip().startswith("<"):
        text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL | re.IGNORECASE)
    text = re.sub(r"data:image/[\w.+-]+;base64,[A-Za-z0-9+/=]{16,}", "(image)", text)
    text = " ".join(redact(whole_characters(text), secret).split())
    return text if len(text) <= LONGEST_ERROR else text[: LONGEST_ERROR - 3] + "..."


def wait_asked_for(headers: Mapping[str, str]) -> float:
    """Seconds to wait by `Retry-After`; 0 without one, or where it is a date."""
    value = headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"\d+(\.\d+)?", value) else 0.0

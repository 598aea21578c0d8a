"""One OpenAI-compatible server: its address and token, one request to it, and how it bears the load."""

import asyncio
import logging
import os
import time
from typing import Any
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import AsyncInferenceClient, get_token, is_offline_mode

from ... import __version__
from ..answers import Answer
from .concurrency import AdaptiveLimit
from .connections import Connections
from .replies import answer_in
from .retries import (
    LONGEST_WAIT,
    Breaker,
    Refusal,
    UselessReply,
    exhausted_for,
    retry_after,
    server_message,
)

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 15.0
KEEP_ALIVE_SECONDS = 4.0  # below the 5 of uvicorn, which serves most of them
MODELS_SECONDS = 5.0
MODELS_SHOWN = 10
LONG_PAUSE = 5.0  # seconds; shorter ones are not worth a line


def addresses_of(base_url: str | None) -> list[str]:
    """
    The addresses in `base_url`, each once.

    Raises:
        ValueError: none, not http(s), or with a password in it.
    """
    addresses = list(dict.fromkeys(part.strip().rstrip("/") for part in (base_url or "").split(",") if part.strip()))
    if not addresses:
        raise ValueError("base_url is not given; name the server, as in http://localhost:8000/v1.")
    for address in addresses:
        parts = urlsplit(address)
        if "@" in parts.netloc:
            raise ValueError(
                f"base_url holds a user or password for {parts.hostname}; put a token into an environment variable "
                "and name that in api_key_env."
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base_url is {address}; it must look like http://localhost:8000/v1.")
    return addresses


def is_hugging_face(address: str) -> bool:
    """Whether a token of Hugging Face may go there: only to its own hosts, and only encrypted."""
    parts = urlsplit(address)
    host = (parts.hostname or "").lower()
    own = host == "huggingface.co" or host.endswith((".huggingface.co", ".huggingface.cloud"))
    return own and parts.scheme == "https"


def token_for(address: str, api_key_env: str | None) -> str | None:
    """
    Raises:
        ValueError: the environment variable is not set, or holds what cannot be a token.
    """
    if api_key_env is None:
        return get_token() if is_hugging_face(address) else None
    token = os.environ.get(api_key_env, "").strip()
    if not token:
        raise ValueError(
            f"api_key_env is {api_key_env}, but that environment variable is not set. Set it to the token of "
            f"{urlsplit(address).netloc}: export {api_key_env}=..."
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"The environment variable {api_key_env} holds no token: spaces or special characters in it.")
    return token


class _Client(AsyncInferenceClient):
    """With a connection for every request: by itself it stops at 100, and keeps 20 of them open."""

    def __init__(self, http: httpx2.AsyncClient, **options: Any):
        super().__init__(**options)
        self._http = http

    async def _get_async_client(self) -> httpx2.AsyncClient:
        return self._http


class Server:
    """
    To be entered with `async with`.

    Args:
        address: up to `/v1`.
        token: sent to it, and shown nowhere.
        timeout: seconds that a request may take in all.
        most: requests at the same time.

    Attributes:
        name: host and port, for messages.
        limit: requests that it gets at the same time.
        breaker: what has failed.
        alive: False once it is given up.
        paused_until: time of the clock of the loop, before which nothing is sent.
    """

    def __init__(self, address: str, token: str | None, timeout: float, most: int):
        if is_offline_mode() and is_hugging_face(address):
            raise ValueError(f"HF_HUB_OFFLINE is set, and {address} is a host of Hugging Face; unset it to go on.")
        self.address, self.name = address, urlsplit(address).netloc
        self.limit, self.breaker, self.alive = AdaptiveLimit(most), Breaker(), True
        self.paused_until = 0.0
        self.has_token = token is not None
        self._secrets = (token,) if token else ()
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"Server({self.name})"

    async def __aenter__(self) -> "Server":
        self._http = httpx2.AsyncClient(
            transport=Connections(self.address, KEEP_ALIVE_SECONDS),
            follow_redirects=False,  # images go to the host that was named, and to no other
            event_hooks={"request": [self._authorize], "response": [self._inspect]},
        )
        self._client = _Client(
            self._http,
            base_url=self.address,
            # Without one, the client would send the user's token of Hugging Face wherever the address leads
            api_key="none",
            headers={"user-agent": f"g4i_hf/{__version__}"},
            timeout=httpx2.Timeout(self._timeout, connect=min(self._timeout, CONNECT_SECONDS)),
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    async def _authorize(self, request: httpx2.Request) -> None:
        request.headers.pop("authorization", None)
        for token in self._secrets:
            request.headers["authorization"] = f"Bearer {token}"

    async def _inspect(self, response: httpx2.Response) -> None:
        """Turns replies with an error status into [`Refusal`]s before the client makes its own of them."""
        if response.status_code < 300:
            self.pause(exhausted_for(response.headers))
            return
        try:
            body = await response.aread()
        except httpx2.HTTPError:
            body = b""
        message = server_message(body, self._secrets)
        if response.is_redirect:
            message = f"redirects to {response.headers.get('location', 'another address')[:200]}"
        url = str(response.request.url.copy_with(query=None))
        raise Refusal(response.status_code, response.headers, message, url)

    def pause(self, seconds: float) -> None:
        """Sends nothing for so long."""
        self.paused_until = max(self.paused_until, time.monotonic() + seconds)

    def rest(self, seconds: float, more: float, refusal: Refusal) -> None:
        """A pause that it asked for, and a little `more`: not all clients come back at the same moment."""
        if seconds > LONG_PAUSE and not self.is_paused:
            logger.warning("%s asks for a pause of %.0f s (%s).", self.name, seconds, refusal)
        self.pause(seconds + more)

    @property
    def is_paused(self) -> bool:
        return time.monotonic() < self.paused_until

    async def ask(self, prompt: str, uri: str, options: dict[str, Any]) -> Answer:
        """
        One request.

        Args:
            prompt: text.
            uri: the image.
            options: of [`~huggingface_hub.AsyncInferenceClient.chat_completion`].

        Returns:
            An answer with status `ok`, `empty` or `refused`.

        Raises:
            Refusal, UselessReply, TimeoutError, httpx2.TransportError: as things go wrong.
        """
        image = {"type": "image_url", "image_url": {"url": uri}}
        content = [image, {"type": "text", "text": prompt}]
        # The client's own time-out starts anew with each piece that comes
        async with asyncio.timeout(self._timeout):
            try:
                reply = await self._client.chat_completion([{"role": "user", "content": content}], **options)
            except httpx2.DecodingError as error:
                raise UselessReply(f"a reply that cannot be decompressed ({error})") from error
            # What JSON of any other shape makes the client trip over
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
                raise UselessReply(f"a reply that is no chat completion ({type(error).__name__})") from error
        return answer_in(reply)

    def describe(self, error: Exception) -> str:
        """An error in a line, without secrets."""
        if isinstance(error, TimeoutError):
            connecting = isinstance(error.__cause__, httpx2.ConnectTimeout)
            return "no connection in time" if connecting else f"no answer within {self._timeout:g} s"
        if isinstance(error, (Refusal, UselessReply)):
            return str(error)
        kind = "no connection" if is_unreachable(error) else "the connection was lost"
        return server_message(f"{kind} ({str(error) or type(error).__name__})", self._secrets)

    async def models(self) -> list[str]:
        """Names of the models that it says it has; empty if it does not say."""
        url = self.address.removesuffix("/chat/completions")
        for path in ("/models", "/v1/models"):
            try:
                reply = await self._http.get(url + path, timeout=MODELS_SECONDS)
                return [str(model["id"]) for model in reply.json()["data"]][:MODELS_SHOWN]
            except (httpx2.HTTPError, Refusal, ValueError, LookupError, TypeError, AttributeError):
                continue
        return []

    def wait_asked_for(self, refusal: Refusal) -> float:
        """
        Seconds that a refusal asks to wait; 0 if it does not say.

        Raises:
            UnreasonableWait: longer than is worth waiting for.
        """
        wait = retry_after(refusal.headers)
        wait = exhausted_for(refusal.headers) if wait is None else wait
        if wait > LONGEST_WAIT:
            raise UnreasonableWait(wait)
        return wait


class UnreasonableWait(Exception):
    """A server wants to be left alone for hours."""

    def __init__(self, seconds: float):
        super().__init__(f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes")


def is_unreachable(error: Exception) -> bool:
    """Whether nothing could be sent at all."""
    return isinstance(error, httpx2.ConnectError) or isinstance(error.__cause__, httpx2.ConnectTimeout)

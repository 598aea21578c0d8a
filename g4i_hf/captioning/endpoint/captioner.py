"""Captions from an OpenAI-compatible server: vLLM, TGI, `transformers serve`, or a hosted provider."""

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ...checkpoints import folder_digest
from ...options import EndpointArguments
from ..answers import Deliver, Question
from ..decoding import decoding_provenance
from .run import EndpointRun
from .servers import Server, addresses_of, token_for

STOP_SECONDS = 5.0  # for the connections to close, when a run is broken off


class EndpointCaptioner:
    """
    Implements [`~g4i_hf.captioning.answers.Captioner`] with `huggingface_hub.AsyncInferenceClient`.

    Requests run in a thread of their own, so that this works in a notebook too. `deliver` is called from the thread
    of `run`; `questions` and `allow` from two others, each from one only. `HF_HUB_OFFLINE` is about Hugging Face and
    does not keep from sending to other hosts.

    Args:
        model: the server's name for it.
        base_url: addresses up to `/v1`; several, with commas, share the questions.
        revision: of the model; no server is asked for it, but it is part of every key.
        max_new_tokens: longest answer.
        temperature: of sampling; 0 takes the likeliest token each time.
        top_p: sample among the likeliest tokens of this total probability.
        seed: of sampling.
        max_side: images are shrunk to this longest side in pixels, and never enlarged.
        endpoint: token, concurrency, time-out, attempts, quality.

    Raises:
        ValueError: for an address that is none, or a token that is missing.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        revision: str | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float | None = None,
        seed: int = 0,
        max_side: int = 768,
        endpoint: EndpointArguments | None = None,
    ):
        self.model, self.max_side = model, max_side
        self.endpoint = endpoint or EndpointArguments()
        self.addresses = addresses_of(base_url)
        self._servers()  # mistakes are seen now
        is_folder = Path(model).is_dir()
        self.provenance: dict[str, Any] = {
            "captioner": "endpoint",
            # `transformers serve` calls a model by its folder, which is another one elsewhere
            "model": Path(model).resolve().name if is_folder else Path(model).name if os.path.isabs(model) else model,
            "revision": revision or (folder_digest(model) if is_folder else None),
            **decoding_provenance(max_new_tokens, temperature, top_p, seed, max_side),
            "jpeg_quality": self.endpoint.jpeg_quality,
        }

    @property
    def hosts(self) -> list[str]:
        """Hosts, with ports, that images are sent to."""
        return [server.name for server in self._servers()]

    @property
    def options(self) -> dict[str, Any]:
        """Of every request; what is None is not sent."""
        asked = self.provenance
        options = {name: asked[name] for name in ("temperature", "top_p", "seed")}
        return {"model": self.model, "max_tokens": asked["max_new_tokens"], **options}

    def _servers(self) -> list[Server]:
        asked = self.endpoint
        return [
            Server(address, token_for(address, asked.api_key_env), asked.request_timeout, asked.max_concurrency)
            for address in self.addresses
        ]

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """See [`~g4i_hf.captioning.answers.Captioner`]. A few questions are read and prepared ahead."""
        run = EndpointRun(
            self._servers(),
            questions,
            allow,
            options=self.options,
            max_side=self.max_side,
            endpoint=self.endpoint,
        )
        thread = threading.Thread(target=run.run, name="captions", daemon=True)
        thread.start()
        try:
            for question, answer in run.results:
                deliver(question, answer)
        except BaseException as error:
            run.break_off()
            thread.join(STOP_SECONDS)
            if isinstance(error, KeyboardInterrupt):  # what has come is paid for
                for question, answer in run.results.rest():
                    deliver(question, answer)
            raise
        thread.join()
        if run.error is not None:
            raise run.error

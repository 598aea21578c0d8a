"""Captions from a server's batch API (`/v1/batches`): questions are sent as files, at half price with most hosts."""

import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import openai

from .. import __version__
from ..files import replace_text
from .answers import Answer, CaptionerError, Deliver, Question
from .endpoint import FATAL, PREPARING, RETRIED, EndpointCaptioner
from .images import UndecodableImage, data_uri
from .servers import UselessReply, answer_in, backoff, chat_body, error_message

logger = logging.getLogger(__name__)

MOST_REQUESTS, MOST_BYTES = 50_000, 190 << 20  # of a file; OpenAI takes 50,000 and 200 MB
POLL_SECONDS = 30.0
ENDED = {"completed", "failed", "expired", "cancelled"}


@dataclass
class Batch:
    """Questions that were sent together. It is kept as a file until all answers are stored."""

    name: str  # of the file, and in the metadata at the server: finds a batch whose id was not written down
    sent_to: str  # address and model
    id: str = ""  # the server's; empty until known
    questions: list[dict[str, str]] = field(default_factory=list)  # without their images
    status: str = ""  # last known


class BatchCaptioner(EndpointCaptioner):
    """
    As [`~g4i_hf.captioning.endpoint.EndpointCaptioner`], with one address and the same keys. A batch is written into
    `folder` before the server is told to begin, so that a run that was stopped waits for it and pays nothing twice.
    """

    def __init__(self, *args: Any, folder: str | Path, **others: Any):
        super().__init__(*args, **others)
        if len(self.addresses) > 1:
            raise ValueError("batch_api sends to one server, but base_url names several. Name one of them.")
        self.sent_to = f"{self.addresses[0]} {self.model}"
        self.folder, self.unanswered = Path(folder), 0

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """See [`~g4i_hf.captioning.answers.Captioner`]. Waits until every batch has ended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        [server] = self.servers()
        with openai.OpenAI(
            base_url=server.address,
            api_key=server.token or "none",
            max_retries=self.endpoint.max_attempts - 1,
            timeout=httpx2.Timeout(self.endpoint.request_timeout, connect=15.0),
            default_headers={"User-Agent": f"g4i_hf/{__version__}"},
            http_client=httpx2.Client(follow_redirects=False),
        ) as client:
            client.organization = client.project = None  # taken from the environment, whatever the address
            try:
                under_way = self._found_again(client)
                asked = {question["key"] for batch in under_way for question in batch.questions}
                new = (question for question in questions if question.key not in asked)
                under_way += self._send(client, itertools.takewhile(lambda _: allow(), new), deliver)
                self._collect(client, under_way, deliver)
            except openai.APIStatusError as error:
                hint = "Does it have a batch API?" if error.status_code in (404, 405) else "Batches under way go on."
                raise CaptionerError(f"{server.name} refuses ({server.describe(error)}). {hint}") from error
            except (openai.APIConnectionError, httpx2.HTTPError) as error:
                said = f"{server.describe(error)}: {server.name}. Batches go on there: start the same command again."
                raise CaptionerError(said) from error

    def _send(self, client: openai.OpenAI, questions: Iterator[Question], deliver: Deliver) -> list[Batch]:
        sent, together, size = [], [], 0
        for question, line in self._lines(questions, deliver):
            if together and (len(together) >= MOST_REQUESTS or size + len(line) > MOST_BYTES):
                sent.append(self._submit(client, together))
                together, size = [], 0
            together.append((replace(question, image={}), line))  # the image is in the line
            size += len(line)
        return [*sent, self._submit(client, together)] if together else sent

    def _lines(self, questions: Iterator[Question], deliver: Deliver) -> Iterator[tuple[Question, bytes]]:
        """Each question as a line of the file; an image that cannot be read is answered at once."""

        def prepared(question: Question) -> bytes | Answer:
            try:
                uri = data_uri(question.image, self.decoding.max_side, self.endpoint.jpeg_quality)
            except UndecodableImage as error:
                return Answer("undecodable", reason=str(error), attempts=0)
            body = chat_body(question.prompt, uri, self.options)
            request = {"custom_id": question.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            return json.dumps(request).encode() + b"\n"

        with ThreadPoolExecutor(PREPARING) as pool:
            while chunk := list(itertools.islice(questions, 8 * PREPARING)):
                for question, line in zip(chunk, pool.map(prepared, chunk), strict=True):
                    if isinstance(line, Answer):
                        deliver([(question, line)])
                    else:
                        yield question, line

    def _submit(self, client: openai.OpenAI, together: list[tuple[Question, bytes]]) -> Batch:
        names = ("image_id", "prompt", "key", "place")
        questions = [{name: getattr(question, name) for name in names} for question, _ in together]
        batch = Batch(f"{time.time_ns():x}", self.sent_to, questions=questions)
        content = b"".join(line for _, line in together)
        file = client.files.create(file=(f"{batch.name}.jsonl", content), purpose="batch")
        self._write(batch)
        batch.id = self._create(client, file.id, batch.name)
        self._write(batch)
        logger.info("Batch %s of %d questions was sent.", batch.id, len(questions))
        return batch

    def _create(self, client: openai.OpenAI, file: str, name: str) -> str:
        """The id of a new batch. When a reply is lost the batch may exist, so it is looked for before a second try."""
        once = client.with_options(max_retries=0)
        for attempt in itertools.count(1):
            try:
                return once.batches.create(
                    input_file_id=file,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                    metadata={"g4i_hf": name},
                ).id
            except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError):
                if known := self._ids(client).get(name):
                    return known
                if attempt == self.endpoint.max_attempts:
                    raise
                time.sleep(backoff(attempt))

    def _ids(self, client: openai.OpenAI) -> dict[str, str]:
        """The ids of the batches at the server, by name."""
        return {(each.metadata or {}).get("g4i_hf"): each.id for each in client.batches.list(limit=100)}

    def _write(self, batch: Batch) -> None:
        replace_text(self._path(batch), json.dumps(asdict(batch)))

    def _found_again(self, client: openai.OpenAI) -> list[Batch]:
        """The batches of earlier runs. One that never reached the server is forgotten and its questions sent again."""
        found = [Batch(**json.loads(path.read_text())) for path in sorted(self.folder.glob("*.json"))]
        found = [batch for batch in found if batch.sent_to == self.sent_to]
        for batch in found:
            batch.id = batch.id or self._ids(client).get(batch.name, "")
            if not batch.id:
                self._path(batch).unlink()
        return [batch for batch in found if batch.id]

    def _path(self, batch: Batch) -> Path:
        return self.folder / f"{batch.name}.json"

    def _collect(self, client: openai.OpenAI, under_way: list[Batch], deliver: Deliver) -> None:
        failed: list[str] = []
        while under_way:
            for batch in list(under_way):
                try:
                    now = client.batches.retrieve(batch.id)
                    counts = now.request_counts
                    done = f", {counts.completed + counts.failed:,} of {counts.total:,}" if counts else ""
                    if batch.status != now.status + done:
                        batch.status = now.status + done
                        logger.info("Batch %s: %s.", batch.id, batch.status)
                    if now.status not in ENDED:
                        continue
                    files = [file for file in (now.output_file_id, now.error_file_id) if file]
                    answered = sum(self._deliver(client, file, batch, deliver) for file in files)
                except openai.NotFoundError as error:
                    raise CaptionerError(
                        f"The server does not know batch {batch.id} any more. Is the token that of the same account? "
                        f"If the batch is gone, remove {self._path(batch)}: its questions are asked again."
                    ) from error
                if now.status == "failed":
                    failed += [error.message or "" for error in (now.errors and now.errors.data) or []] or ["failed"]
                self.unanswered += len(batch.questions) - answered
                self._path(batch).unlink()  # all answers are kept by now
                under_way.remove(batch)
            if under_way:
                time.sleep(POLL_SECONDS)
        if failed:
            raise CaptionerError(f"The server refused a batch: {error_message(failed[0])} The same command resumes.")

    def _deliver(self, client: openai.OpenAI, file: str, batch: Batch, deliver: Deliver) -> int:
        """Delivers the answers in a file and returns their number; questions that may be asked again get none."""
        questions, pairs = {asked["key"]: asked for asked in batch.questions}, []
        for line in filter(bytes.strip, client.files.content(file).content.split(b"\n")):
            said = json.loads(line)
            answer = answer_of_line(said)
            if answer is not None and (asked := questions.pop(said.get("custom_id"), None)) is not None:
                pairs.append((Question(image={}, **asked), answer))
        deliver(pairs)
        return len(pairs)


def answer_of_line(said: dict[str, Any]) -> Answer | None:
    """The answer in a line of an output or error file; None where the question may be asked again."""
    response = said.get("response") if isinstance(said, dict) else None
    if not isinstance(response, dict):
        return None
    status = response.get("status_code")
    if status == 200:
        try:
            return answer_in(json.dumps(response.get("body")).encode())
        except UselessReply as error:
            return Answer("failed", reason=str(error))
    if not isinstance(status, int) or status >= 500 or status in RETRIED or status in FATAL:
        return None
    return Answer("rejected", reason=f"{status}: {error_message(json.dumps(response.get('body')))}")

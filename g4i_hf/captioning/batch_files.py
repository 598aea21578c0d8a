"""Files for a provider's batch API: requests in OpenAI's form, and the answers to them. Nothing is sent from here."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from .answers import OK, Answer, Deliver, Question
from .endpoint import FATAL, PREPARING, RETRIED, EndpointCaptioner
from .images import UndecodableImage, data_uri
from .servers import UselessReply, answer_in, chat_body, error_message

MOST_REQUESTS, MOST_BYTES = 50_000, 190 << 20  # of a file; OpenAI takes 50,000 and 200 MB


class RequestFiles(EndpointCaptioner):
    """Writes questions into files, each with its key as `custom_id`, in place of asking them."""

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """See [`~g4i_hf.captioning.answers.Captioner`]. ValueError for a file that exists: it may have been sent."""
        self.paths: list[Path] = []
        file, count = None, 0
        with ExitStack() as files:
            for line in self._lines(itertools.takewhile(lambda _: allow(), questions), deliver):
                if file is None or count % MOST_REQUESTS == 0 or file.tell() + len(line) > MOST_BYTES:
                    file = files.enter_context(self._next_file())
                file.write(line)
                count += 1
        if count:
            self.said = f"{count:,} requests are in {', '.join(map(str, self.paths))}."
            self.why_open = (
                "Send them with your provider's tool. Then start the same command with --import_answers and the files "
                "of the answers, in place of --export_requests."
            )

    def _lines(self, questions: Iterator[Question], deliver: Deliver) -> Iterator[bytes]:
        """The request of each question; an image that cannot be read is answered at once."""

        def line_of(question: Question) -> bytes | Answer:
            try:
                uri = data_uri(question.image, self.decoding.max_side, self.endpoint.jpeg_quality)
            except UndecodableImage as error:
                return Answer("undecodable", reason=str(error), attempts=0)
            body = chat_body(question.prompt, uri, self.options)
            request = {"custom_id": question.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            return json.dumps(request).encode() + b"\n"

        with ThreadPoolExecutor(PREPARING) as pool:
            while chunk := list(itertools.islice(questions, 8 * PREPARING)):
                for question, line in zip(chunk, pool.map(line_of, chunk), strict=True):
                    if isinstance(line, Answer):
                        deliver([(replace(question, image={}), line)])
                    else:
                        yield line

    def _next_file(self) -> BinaryIO:
        path = Path(self.endpoint.export_requests)
        path = path.with_stem(f"{path.stem}-{len(self.paths) + 1}") if self.paths else path
        if path.exists():
            raise ValueError(f"{path} exists. Give another --export_requests, or remove it if it was not sent.")
        self.paths.append(path)
        return path.open("xb")


class AnswerFiles(EndpointCaptioner):
    """Takes answers from files in place of asking. ValueError for a line that is not a result."""

    def __init__(self, *args: Any, **others: Any):
        super().__init__(*args, **others)
        self.imported: dict[str, Answer] = {}  # without those that `run` has delivered
        self.num_failed = 0
        for path in map(Path, self.endpoint.import_answers):
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        result = json.loads(line)
                        key, answer = str(result["custom_id"]), answer_of(result["response"])
                    except (ValueError, LookupError, TypeError, RecursionError) as error:
                        said = f"{path}, line {number}: not the result of a batch. Download the file again."
                        raise ValueError(said) from error
                    if answer is None:
                        self.num_failed += 1
                    elif answer.status == OK or key not in self.imported:
                        self.imported[key] = answer

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """See [`~g4i_hf.captioning.answers.Captioner`]."""
        light = (replace(question, image={}) for question in questions)
        statuses, num_open = Counter[str](), 0
        while chunk := list(itertools.islice(light, 500)):
            pairs = [
                (question, self.imported.pop(question.key)) for question in chunk if question.key in self.imported
            ]
            deliver(pairs)
            statuses.update(answer.status for _, answer in pairs)
            num_open += len(chunk) - len(pairs)
        counts = [f"{number:,} {status}" for status, number in statuses.items()]
        self.said = f"Imported answers: {', '.join(counts) or 'none'}."
        if self.num_failed:
            self.said += f" {self.num_failed:,} requests failed: their questions stay open."
        if self.imported:
            self.said += f" {len(self.imported):,} answers match no open question: "
            self.said += "it has an answer already, or the data, the prompt or the options differ."
        if num_open:
            self.why_open = (
                f"{num_open:,} questions have no answer. Export them with --export_requests, or start the same "
                "command without --import_answers to ask the server. --partial writes the captions so far."
            )


def answer_of(response: Any) -> Answer | None:
    """The answer in a result; None after a failure that says nothing of the question, which may be asked again."""
    status = response.get("status_code") if isinstance(response, dict) else None
    if not isinstance(status, int) or status >= 500 or status in RETRIED or status in FATAL:
        return None
    if status != 200:
        return Answer("rejected", reason=f"{status}: {error_message(json.dumps(response.get('body')))}")
    try:
        return answer_in(json.dumps(response.get("body")).encode())
    except UselessReply as error:
        return Answer("failed", reason=str(error))

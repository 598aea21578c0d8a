"""Files for a batch API: requests in OpenAI's form, and the answers to them. Nothing is sent from here."""

import itertools
import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..data.images import UndecodableImage, data_uri
from .answers import OK, Answer, Deliver, Question
from .endpoint import FATAL, PREPARING, RETRIED, EndpointCaptioner
from .servers import UselessReply, answer_in, error_message

TOGETHER = 100  # questions that are read, and answers that are stored, at a time


class RequestFiles(EndpointCaptioner):
    """Writes questions into a file, each with its key as `custom_id`, in place of asking them."""

    needs_no_check = True

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """See [`~g4i_hf.captioning.answers.Captioner`]. ValueError for a file that exists: it may have been sent."""
        path, count = Path(self.endpoint.export_requests), 0
        if path.exists():
            raise ValueError(f"{path} exists. Give another --export_requests, or remove it if it was not sent.")
        questions = itertools.takewhile(lambda _: allow(), questions)
        with path.open("xb") as file, ThreadPoolExecutor(PREPARING) as pool:
            while chunk := list(itertools.islice(questions, TOGETHER)):
                for question, line in zip(chunk, pool.map(self._line_of, chunk), strict=True):
                    if isinstance(line, Answer):
                        deliver([(question, line)])
                    else:
                        count += file.write(line) > 0
        if not count:
            path.unlink()
            return
        self.why_open = (
            f"{count:,} requests are in {path}. Send them with your provider's tool. Then run the same command with "
            "--import_answers FILES instead of --export_requests."
        )

    def _line_of(self, question: Question) -> bytes | Answer:
        """The request; the answer for an image that cannot be read."""
        try:
            body = self.body_of(question, data_uri(question.image, self.decoding.image_max_side))
        except UndecodableImage as error:
            return Answer("undecodable", reason=str(error), attempts=0)
        request = {"custom_id": question.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(request).encode() + b"\n"


class AnswerFiles(EndpointCaptioner):
    """Asks nobody: the answers in files are in the store already, and `run` counts the questions without one."""

    needs_no_check = True

    def run(self, questions: Iterable[Question], deliver: Deliver, allow: Callable[[], bool]) -> None:
        """See [`~g4i_hf.captioning.answers.Captioner`]."""
        if num_open := sum(1 for _ in questions):
            self.why_open = (
                f"{num_open:,} questions have no answer. Export them with --export_requests, or ask a server without "
                "--import_answers. --partial writes the captions so far."
            )


def answers_in_files(files: Iterable[str]) -> dict[str, Answer]:
    """Answers by key. ValueError for a line that is not a result; those of other tools are left out."""
    answers: dict[str, Answer] = {}
    for path in map(Path, files):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    result = json.loads(line)
                    key, answer = str(result["custom_id"]), answer_of(result["response"])
                except (ValueError, LookupError, TypeError, RecursionError) as error:
                    message = f"{path}, line {number}: not the result of a batch. Download the file again."
                    raise ValueError(message) from error
                is_better = answer is not None and (answer.status == OK or key not in answers)
                if is_better and re.fullmatch("[0-9a-f]{32}", key):
                    answers[key] = answer
    return answers


def answer_of(response: Any) -> Answer | None:
    """The answer in a result; None after a failure that says nothing of the question, which may be asked again."""
    status = response.get("status_code") if isinstance(response, dict) else None
    if not isinstance(status, int) or status >= 500 or status in RETRIED or status in FATAL:
        return None
    body = json.dumps(response.get("body"))
    try:
        return (
            answer_in(body.encode())
            if status == 200
            else Answer("rejected", reason=f"{status}: {error_message(body)}")
        )
    except UselessReply as error:
        return Answer("failed", reason=str(error))

"""What has come from a server but is not written down yet counts as under way."""

import threading
import time

from test_caption_endpoint import captioner, questions, serve  # noqa: F401


def test_no_more_is_asked_while_answers_wait_to_be_written(serve):  # noqa: F811
    server, found, may_go_on = serve(), [], threading.Event()

    def deliver(question, answer) -> None:
        may_go_on.wait(20)
        found.append((question.image_id, answer.text))

    runs = captioner(server, max_concurrency=3)
    thread = threading.Thread(target=runs.run, args=(questions(12), deliver, lambda: True))
    thread.start()
    deadline = time.monotonic() + 20
    while server.stats()["whole"] < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)  # would be enough for all of them
    assert server.stats()["requests"] == 3 and not found
    may_go_on.set()
    thread.join(20)
    assert sorted(found) == sorted((str(number), f"number {number}") for number in range(12))

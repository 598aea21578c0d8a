"""Requests for a provider's batch API as files, and its answers, which are those of the live captioner."""

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from caption_doors import all_right, asking, caption, captions_of_numbers, draw_numbers, rows_of
from caption_server import number_in
from PIL import Image

IMAGES = 24
NOBODY = SimpleNamespace(url="http://127.0.0.1:9")  # where no server listens


@pytest.fixture
def folder(tmp_path) -> Path:
    draw_numbers(tmp_path / "pictures", IMAGES)
    return tmp_path


def export(folder: Path, *options: object, **fails: bool) -> str:
    return caption(folder, *asking(NOBODY, "--export_requests", "requests.jsonl", *options), **fails)


def bring_in(folder: Path, **fails: bool) -> str:
    return caption(folder, *asking(NOBODY, "--import_answers", "answers.jsonl"), **fails)


def requests_in(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]


def number_of(request: dict) -> int:
    code = request["body"]["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2]
    return number_in(Image.open(io.BytesIO(base64.b64decode(code))))


def result(request: dict, status: int = 200, body: dict | None = None) -> dict:
    message = {"role": "assistant", "content": f"number {number_of(request)}"}
    body = body or {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    return {"custom_id": request["custom_id"], "response": {"status_code": status, "body": body}, "error": None}


def answer(folder: Path, results: list[dict]) -> None:
    """Writes them as the answers, in another order; U+2028 separates lines to `str.splitlines` alone."""
    lines = [json.dumps(each, ensure_ascii=False).replace("number ", "number\u2028") for each in reversed(results)]
    (folder / "answers.jsonl").write_text("\n".join(lines) + "\n")


def answer_all(folder: Path, *options: object) -> None:
    """Exports what has no answer, and brings the answers in."""
    (folder / "requests.jsonl").unlink(missing_ok=True)
    export(folder, *options)
    answer(folder, [result(request) for request in requests_in(folder)])
    bring_in(folder)


def test_imported_answers_are_answers_to_the_live_captioner_and_the_other_way_round(folder, serve):
    server = serve()
    caption(folder, *asking(server, "--max_requests", 4 + 10))  # the check takes four
    assert "14 requests are in requests.jsonl" in export(folder)
    requests = requests_in(folder)
    assert len({request["custom_id"] for request in requests}) == 14
    assert {(request["method"], request["url"]) for request in requests} == {("POST", "/v1/chat/completions")}
    assert {request["body"]["model"] for request in requests} == {"tiny"}
    answer(folder, [result(request) for request in requests])
    assert "14 answers were read" in bring_in(folder)
    assert captions_of_numbers(folder / "captions") == all_right(IMAGES)
    caption(folder, *asking(server))
    assert server.stats()["requests"] == 10


def test_an_answer_that_is_missing_is_exported_again_and_a_rejected_image_has_its_reason(folder):
    export(folder)
    by_number = {number_of(request): request for request in requests_in(folder)}
    expired = {"custom_id": by_number[3]["custom_id"], "response": None, "error": {"code": "batch_expired"}}
    failed = [expired, result(by_number[4], 429, {"error": "slow down"}), result(by_number[5], 401, {"error": "who?"})]
    rejected = result(by_number[6], 400, {"error": {"message": "this picture is not allowed"}})
    others = [result(by_number[number]) for number in range(7, IMAGES)]  # 0 to 2 are in no file
    strangers = [result(by_number[7]) | {"custom_id": name} for name in ("f" * 32, "of another tool")]
    answer(folder, [*failed, rejected, *others, *strangers])
    said = bring_in(folder)
    assert "19 answers were read" in said and "6 questions have no answer" in said
    assert not (folder / "captions").exists()

    answer_all(folder)
    assert sorted(map(number_of, requests_in(folder))) == [0, 1, 2, 3, 4, 5]
    assert captions_of_numbers(folder / "captions") == all_right(IMAGES) | {6: None}
    [row] = [row for row in rows_of(folder / "captions") if row["image_id"].endswith("/6.png")]
    assert (row["caption_status"], row["caption_reason"]) == (["rejected"], ["400: this picture is not allowed"])
    answer_all(folder, "--retry_failed")
    assert captions_of_numbers(folder / "captions") == all_right(IMAGES)


def test_an_export_has_a_limit_is_never_written_over_and_leaves_out_what_cannot_be_read(folder):
    assert "4 requests are in requests.jsonl" in export(folder, "--max_requests", 4)
    assert "requests.jsonl exists" in export(folder, fails=True) and len(requests_in(folder)) == 4
    (folder / "pictures" / "train" / "class0" / "0.png").write_bytes(b"no image")
    answer_all(folder)
    assert len(requests_in(folder)) == 23 and captions_of_numbers(folder / "captions") == all_right(IMAGES) | {0: None}


@pytest.mark.parametrize("last", ['{"custom_id": "a", "respon', '{"custom_id": 3}', "[" * 100_000], ids=len)
def test_a_file_of_something_else_is_named_with_its_line(folder, last):
    export(folder)
    answer(folder, [result(request) for request in requests_in(folder)])
    with open(folder / "answers.jsonl", "a") as file:
        file.write(last)
    assert f"answers.jsonl, line {IMAGES + 1}: not the result of a batch" in bring_in(folder, fails=True)

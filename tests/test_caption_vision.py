"""A server that drops images or mixes them up is found by four generated images, before anything else is asked."""

import time
from contextlib import nullcontext

import pytest
from caption_doors import all_right, asking, caption, captions_of_numbers, draw_numbers

from g4i_hf import fit
from g4i_hf.captioning.answers import AnswerStore, CaptionerError
from g4i_hf.captioning.endpoint import EndpointCaptioner
from g4i_hf.options import Decoding

DROPPED = "images do not reach the model"
MIXED_UP = "images sent at the same time are mixed up"
# By models of tests/workers/caption_server.py; None passes
FAULTS = {
    "drops": f"{DROPPED}: .* the answer 'A red circle on a white background.' .* --mmproj.* chat template",
    "drops-and-rephrases": DROPPED,
    "drops-and-says-so": DROPPED,
    "swaps": f"{MIXED_UP}: that of a red circle gets the answer 'A blue shape.'.* --max_concurrency 1",
    "swaps-two": MIXED_UP,
    "specialist": f"{DROPPED}: .* g4i caption --check_vision false",
    "weak": None,
    "colour-blind": None,
    "german": None,
    "tags": None,
    "emoji": None,
    "plain-if-small": None,
}


@pytest.fixture
def folder(tmp_path):
    draw_numbers(tmp_path / "pictures", 2)
    return tmp_path


def test_a_model_whose_answers_follow_the_images_passes_however_weak_and_no_other(tmp_path, serve):
    server = serve("--latency", 0.05)
    with AnswerStore(tmp_path / "answers") as store:
        for model, fault in FAULTS.items():
            captioner = EndpointCaptioner(model, f"{server.url}/v1", Decoding(max_new_tokens=5))
            says = rf"127.0.0.1:{server.port}, {model}: {fault}"
            with pytest.raises(CaptionerError, match=says) if fault else nullcontext():
                captioner.check(store, lambda pairs: None, lambda: True)
    assert server.stats()["colours"] == 4 * len(FAULTS)
    assert server.stats()["peak_in_flight"] == 4, "at once, which may mix them up"


@pytest.mark.slow
def test_a_server_is_checked_once_and_again_only_after_a_failure_or_for_another_model(folder, serve):
    server = serve()

    def colours_after(*options: object, **fails: bool) -> int:
        caption(folder, *asking(server, *options), **fails)
        return server.stats()["colours"]

    assert colours_after("--max_requests", 0, "--partial") == 0
    assert colours_after("--dry_run", 1) == colours_after() == 4
    draw_numbers(folder / "pictures", 3)
    assert colours_after() == 4 and server.stats()["requests"] == 3
    drops = ("--captioner_model", "drops", "--captions_dir", "drops")
    assert [colours_after(*drops, fails=True) for _ in range(2)] == [8, 12]
    assert colours_after(*drops, "--check_vision", "false") == 12
    assert captions_of_numbers(folder / "drops") == all_right(3)
    assert (
        colours_after("--export_requests", "requests.jsonl", "--prompt", "Another?", "--captions_dir", "batch") == 12
    )


@pytest.mark.slow
def test_the_check_counts_for_the_limits_but_for_those_that_leave_no_room_for_it(folder, serve):
    server = serve()
    draw_numbers(folder / "pictures", 12)
    prices = ("--price_input", 0, "--price_output", 1e6)  # 3 a request
    for limit, asked in (
        (("--max_requests", 3), (0, 3)),
        (("--max_requests", 6), (4, 5)),
        (("--max_cost", 6), (4, 7)),
    ):
        caption(folder, *asking(server, "--max_concurrency", 1, *limit, *prices))
        assert (server.stats()["colours"], server.stats()["requests"]) == asked, limit
    caption(folder, *asking(server, "--captions_dir", "other", "--max_concurrency", 1, "--max_cost", 15, *prices))
    assert (server.stats()["colours"], server.stats()["requests"]) == (8, 8)


def test_the_check_of_several_servers_leaves_room_in_the_limit_for_captions(folder, serve):
    servers = [serve() for _ in range(3)]
    caption(
        folder,
        *asking(servers[0], "--base_url", ",".join(f"{server.url}/v1" for server in servers), "--max_requests", 10),
    )
    assert [server.stats()["colours"] for server in servers] == [0, 0, 0]
    assert captions_of_numbers(folder / "captions") == all_right(2)


@pytest.mark.parametrize("last", [["--always", 503], ["--latency", 60]])
def test_servers_that_work_do_not_wait_for_one_that_is_loading_or_hangs(folder, serve, monkeypatch, caplog, last):
    monkeypatch.setattr("g4i_hf.captioning.endpoint.PROBE_SECONDS", 0.1, raising=False)
    first, second, good = serve(*last), serve(*last), serve()
    addresses = [f"{server.url}/v1" for server in (first, second, good)]
    began = time.monotonic()
    with AnswerStore(folder / "answers") as store:
        EndpointCaptioner("tiny", ",".join(addresses)).check(store, lambda pairs: None, lambda: True)
        assert time.monotonic() - began < 20 and good.stats()["colours"] == 4
        EndpointCaptioner("tiny", ",".join(addresses)).check(store, lambda pairs: None, lambda: True)
    for server in (first, second):
        assert caplog.text.count(f"127.0.0.1:{server.port} has not answered four test images") == 2, "not yet checked"
    assert good.stats()["colours"] == 4


def test_a_server_with_an_empty_answer_to_a_test_image_is_checked_once(tmp_path, serve):
    server = serve()
    for model in ("says-nothing", "says-nothing-of-red"):
        with AnswerStore(tmp_path / model) as store:
            for _ in range(2):
                captioner = EndpointCaptioner(model, f"{server.url}/v1")
                captioner.check(store, lambda pairs: None, lambda: True)
    assert server.stats()["colours"] == 2 * 4


def test_fit_stops_before_anything_is_captioned(folder, serve):
    server = serve()
    asked = {"captioner": f"{server.url}/v1", "captioner_model": "drops", "questions": ["describe"]}
    with pytest.raises(ValueError, match=DROPPED):
        fit(folder / "pictures", output_dir=folder / "out", **asked)
    assert (server.stats()["colours"], server.stats()["requests"]) == (4, 0)
    assert not (folder / "out" / "captions").exists()

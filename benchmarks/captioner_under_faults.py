"""
Throughput of `g4i caption` against a server of latency L and capacity C, as a share of the C / L that it can
give, ramp-up and tail included, without faults and with them. Photographs of 500 x 375, default options; every answer
is on the disk before it counts. Beside it what people write themselves, on the same images and the same server:

- `map`: `datasets.map` with an async function that calls the stock client without retries and leaves a row empty
  after an error.
- `client`: the same with `openai.AsyncOpenAI(max_retries=8)`, whose retries wait in place.

Neither keeps anything when it stops. Server and client are processes of their own.

    python benchmarks/captioner_under_faults.py

Writes results/captioner_under_faults.json. The photographs are pieces of the two in scikit-learn.
"""

import argparse
import base64
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import openai
from datasets import Dataset, Features, Value, disable_progress_bars
from datasets import Image as ImageFeature
from PIL import Image
from result_files import RESULTS, ROOT, write_result
from sklearn.datasets import load_sample_images

from g4i_hf.captioning.answers import OK, AnswerStore, Keys
from g4i_hf.captioning.endpoint import EndpointCaptioner
from g4i_hf.captioning.questions import Prompts, Questions
from g4i_hf.captioning.runner import Asking

WIDTH, HEIGHT, QUALITY = 500, 375, 95
PIECES = 200
PROMPT = "Describe this image in detail."
ROUGH = "429 429-wait 503 500 slow cut cut-body garbage no-choices"
# latency, capacity, share of faulty replies, their kinds, requests
SCENARIOS = [
    (0.5, 64, 0.0, "", 4000),
    (0.5, 64, 0.01, "429", 4000),
    (0.5, 64, 0.03, "500 cut", 4000),
    (0.5, 64, 0.10, "500 cut", 4000),
    (0.5, 64, 0.20, ROUGH, 4000),
    (2.0, 256, 0.0, "", 8000),
    (2.0, 256, 0.03, "500 cut", 8000),
    (2.0, 256, 0.20, ROUGH, 8000),
]
QUANTISATION = b"\xff\xdb\x00\x43\x00"  # of brightness; 64 steps follow


def photographs(seed: int = 0) -> list[bytes]:
    """JPEGs of pieces of two photographs, mirrored, with other contrast and brightness."""
    generator = np.random.default_rng(seed)
    files = []
    for number in range(PIECES):
        whole = load_sample_images().images[number % 2].astype(np.float32)
        top = generator.integers(whole.shape[0] - HEIGHT + 1)
        left = generator.integers(whole.shape[1] - WIDTH + 1)
        piece = whole[top : top + HEIGHT, left : left + WIDTH][:, :: 1 if generator.random() < 0.5 else -1]
        piece = (piece - 128) * generator.uniform(0.8, 1.2) + 128 + generator.uniform(-20, 20)
        buffer = io.BytesIO()
        Image.fromarray(piece.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
        files.append(buffer.getvalue())
    return files


def image_of(files: list[bytes], number: int) -> bytes:
    """A different image for each number: the finest details weigh differently, at no cost."""
    file = files[number % PIECES]
    last = file.index(QUANTISATION) + len(QUANTISATION) + 63
    return file[:last] + bytes((1 + number // PIECES % 255,)) + file[last + 1 :]


def rows(files: list[bytes], count: int) -> Dataset:
    features = Features({"image": ImageFeature(decode=False), "image_id": Value("string")})
    images = [{"bytes": image_of(files, number), "path": None} for number in range(count)]
    return Dataset.from_dict({"image": images, "image_id": [str(n) for n in range(count)]}, features=features)


class Server:
    """In a process of its own."""

    def __init__(self, latency: float, capacity: int, rate: float, kinds: str):
        command = [sys.executable, str(ROOT / "tests" / "workers" / "caption_server.py"), "--answer", "digest"]
        command += ["--latency", str(latency), "--capacity", str(capacity)]
        command += ["--fault_rate", str(rate), "--faults", *kinds.split()] if rate else []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.url = f"http://127.0.0.1:{json.loads(self.process.stdout.readline())['port']}"

    def stats(self) -> dict:
        with urllib.request.urlopen(self.url + "/stats") as reply:
            return json.load(reply)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


def ours(split: Dataset, url: str) -> tuple[float, int]:
    """Seconds from the first request to the last answer on the disk, and how many images have a caption."""
    captioner = EndpointCaptioner("tiny", url)
    questions = Questions(split, "train", Prompts([PROMPT], split.features, "train"), Keys(captioner.provenance))
    with tempfile.TemporaryDirectory() as folder, AnswerStore(folder) as store:
        outcome = Asking(captioner, [questions], store).run()
        texts = {answer.text for _, [answer] in questions.answers(store) if answer and answer.status == OK}
    assert len(texts) == outcome.statuses[OK], "an answer in another row"
    return outcome.seconds, outcome.statuses[OK]


def by_map(split: Dataset, url: str, retries: int) -> tuple[float, int]:
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=retries, timeout=120)

    async def describe(row: dict) -> dict:
        uri = "data:image/jpeg;base64," + base64.b64encode(row["image"]["bytes"]).decode()
        content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": PROMPT}]
        try:
            reply = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": content}], max_tokens=128
            )
            return {"caption": reply.choices[0].message.content}
        except (openai.OpenAIError, ValueError, IndexError, TypeError, AttributeError):
            return {"caption": None}

    start = time.perf_counter()
    described = split.map(describe, new_fingerprint="described", keep_in_memory=True, remove_columns=["image"])
    seconds = time.perf_counter() - start
    return seconds, len(described) - described["caption"][:].count(None)


WAYS = {
    "g4i": ours,
    "map": lambda split, url: by_map(split, url, 0),
    "client": lambda split, url: by_map(split, url, 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of requests")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--output", type=Path, default=RESULTS / "captioner_under_faults.json")
    args = parser.parse_args()
    os.environ.pop("HF_HUB_OFFLINE", None)
    disable_progress_bars()
    files, measured = photographs(), []
    for latency, capacity, rate, kinds, count in SCENARIOS:
        split = rows(files, round(count * args.scale))
        found = {"latency_seconds": latency, "capacity": capacity, "fault_rate": rate, "faults": kinds.split()}
        found["requests"] = len(split)
        for way in args.ways:
            if way != "g4i" and (capacity > 64 or kinds == "429"):
                continue  # they take long
            with Server(latency, capacity, rate, kinds) as server:
                load, processor = os.getloadavg()[0], time.process_time()
                seconds, captions = WAYS[way](split, f"{server.url}/v1")
                stats = server.stats()
            found[way] = {
                "captions": captions,
                "seconds": seconds,
                "share_of_capacity": captions / seconds / (capacity / latency),
                "asked_again_after_a_whole_reply": stats["asked_again"],
                "most_in_flight": stats["peak_in_flight"],
                "processor_ms_per_request": 1000 * (time.process_time() - processor) / len(split),
                "load_before": load,
            }
            share = found[way]["share_of_capacity"]
            print(
                f"L {latency} C {capacity} {rate:.0%} {kinds[:9]}: {way} {share:.1%}, {captions} captions", flush=True
            )
        measured.append(found)
    write_result(args.output, image_kib_mean=sum(map(len, files)) / len(files) / 1024, measured=measured)


if __name__ == "__main__":
    main()

"""
Throughput of the endpoint captioner against a server of fixed latency L and capacity C, as a share of the C / L that
such a server can give, ramp-up and tail included, over 20,000 different photographs of 500 x 375; memory and the
processor's time on the way. Beside it the naive loop, on as many requests: `datasets.map` with an async function that
calls the same client, without journal, limits or retries. Server and client are processes of their own, one thread of
work each.

    python benchmarks/endpoint_saturation.py

Writes results/endpoint_saturation.json. The photographs are pieces of the two in scikit-learn.
"""

import argparse
import base64
import io
import json
import os
import resource
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset, disable_progress_bars
from huggingface_hub import AsyncInferenceClient
from PIL import Image
from provenance import RESULTS, ROOT, provenance
from sklearn.datasets import load_sample_images

from g4i_hf.captioning.answers import OK, Answer, Question
from g4i_hf.captioning.endpoint import EndpointCaptioner
from g4i_hf.options import EndpointArguments

WIDTH, HEIGHT, QUALITY = 500, 375, 95
PIECES = 200
SAMPLE_SECONDS = 0.5
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


def questions(files: list[bytes], count: int) -> Iterator[Question]:
    for number in range(count):
        image = {"bytes": image_of(files, number), "path": None}
        yield Question(str(number), image, "Describe this image in detail.", str(number))


class Server:
    """In a process of its own."""

    def __init__(self, latency: float, capacity: int):
        command = [sys.executable, str(ROOT / "tests" / "workers" / "caption_server.py"), "--answer", "digest"]
        command += ["--latency", str(latency), "--capacity", str(capacity)]
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


class Memory(threading.Thread):
    """Resident memory of this process in MiB, now and then."""

    def __init__(self):
        super().__init__(daemon=True)
        self.samples: list[float] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_SECONDS):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.samples.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)

    def summary(self) -> dict[str, float]:
        """Peaks of the first and of the last fifth of the time, and of all of it."""
        self.ended.set()
        part = max(1, len(self.samples) // 5)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        return {
            "peak_first_fifth": max(self.samples[:part]),
            "peak_last_fifth": max(self.samples[-part:]),
            "peak": peak,
        }


def ours(files: list[bytes], args: argparse.Namespace) -> dict:
    with Server(args.latency, args.capacity) as server:
        captioner = EndpointCaptioner("tiny", server.url + "/v1", endpoint=EndpointArguments())
        texts: dict[str, str] = {}
        statuses: Counter[str] = Counter()
        times: list[float] = []

        def deliver(pairs: list[tuple[Question, Answer]]) -> None:
            for question, answer in pairs:
                texts[question.image_id] = answer.text
                statuses[answer.status] += 1
                times.append(time.perf_counter())

        memory, load = Memory(), os.getloadavg()[0]
        memory.start()
        start, processor = time.perf_counter(), time.process_time()
        captioner.run(questions(files, args.requests), deliver, lambda: True)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        stats = server.stats()
    if statuses != {OK: args.requests} or len(set(texts.values())) != args.requests or stats["asked_again"]:
        raise SystemExit(f"not every image was described once: {statuses}, {len(set(texts.values()))} texts, {stats}")
    half = [moment for moment in times if moment - start < seconds / 2]
    return {
        **figures(args.requests, seconds, processor, args),
        "share_first_half": len(half) / (seconds / 2) / (args.capacity / args.latency),
        "memory_mib": memory.summary(),
        "most_in_flight": stats["peak_in_flight"],
        "load_before_and_after": [load, os.getloadavg()[0]],
    }


def naive(files: list[bytes], args: argparse.Namespace) -> dict:
    with Server(args.latency, args.capacity) as server:
        client = AsyncInferenceClient(base_url=server.url + "/v1", api_key="none")

        async def describe(row: dict) -> dict:
            uri = "data:image/jpeg;base64," + base64.b64encode(image_of(files, row["number"])).decode()
            content = [
                {"type": "image_url", "image_url": {"url": uri}},
                {"type": "text", "text": "Describe this image in detail."},
            ]
            reply = await client.chat_completion([{"role": "user", "content": content}], model="tiny", max_tokens=128)
            return {"caption": reply.choices[0].message.content}

        rows = Dataset.from_dict({"number": list(range(args.naive_requests))})
        load = os.getloadavg()[0]
        start, processor = time.perf_counter(), time.process_time()
        described = rows.map(describe, new_fingerprint="described", keep_in_memory=True)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        stats = server.stats()
    if len(set(described["caption"])) != args.naive_requests:
        raise SystemExit("the naive loop did not describe every image")
    return {
        **figures(args.naive_requests, seconds, processor, args),
        "most_in_flight": stats["peak_in_flight"],
        "connections": stats["connections"],
        "load_before_and_after": [load, os.getloadavg()[0]],
    }


def figures(requests: int, seconds: float, processor: float, args: argparse.Namespace) -> dict:
    return {
        "requests": requests,
        "seconds": seconds,
        "requests_per_second": requests / seconds,
        "share_of_capacity": requests / seconds / (args.capacity / args.latency),
        "processor_ms_per_request": 1000 * processor / requests,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--naive_requests", type=int, default=20_000)
    parser.add_argument("--latency", type=float, default=0.5, help="L, in seconds")
    parser.add_argument("--capacity", type=int, default=64, help="C, requests at the same time")
    parser.add_argument("--output", type=Path, default=RESULTS / "endpoint_saturation.json")
    args = parser.parse_args()
    os.environ.pop("HF_HUB_OFFLINE", None)
    disable_progress_bars()
    files = photographs()
    results = {}
    for name, measure in (("ours", ours), ("naive", naive)):
        found = results[name] = measure(files, args)
        print(
            f"{name}: {found['requests_per_second']:.1f} requests/s, {found['share_of_capacity']:.1%} of C / L, "
            f"{found['processor_ms_per_request']:.2f} ms of processor each", found.get("memory_mib", ""), flush=True,
        )  # fmt: skip
    made = {
        **provenance(),
        "latency_seconds": args.latency,
        "capacity": args.capacity,
        "image_kib_mean": sum(map(len, files)) / len(files) / 1024,
    }
    args.output.write_text(json.dumps({**made, **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()

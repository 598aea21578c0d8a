"""
The answers of a data set as large as ImageNet's training set, all but those of the last rows: how long it takes to
write them, in batches as a captioner hands them over, to open them again, and to find an answer by its key and by its
place, with the memory that this takes. They lie in as many files as processes wrote them, and are read in a process of
its own, after the system was asked to forget the files. Seconds are by the clock and of the processor; only the latter
leave out what else runs on the machine. Only the store is measured: there are no images.

    python benchmarks/store_scale.py

Takes 2 GB of disk. Writes results/store_scale.json.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

from g4i_hf.captioning.answers import OK, Answer, Question
from g4i_hf.captioning.store import AnswerStore, Keys
from g4i_hf.data.record import content_digest

ROWS = 1_281_167
UNANSWERED = 1000  # the last rows
FILES = 8  # so many processes wrote
BATCH = 256  # answers that are written together
LOOKED_UP = 20_000  # by key
TOGETHER = 500  # rows whose places are looked up together
ALONE = 200  # answers that are written one by one
PROMPT = "Describe this image in detail."
KEYS = Keys({"model": "llava-hf/llava-1.5-7b-hf", "revision": "main", "decoding": {"max_new_tokens": 128}})


def images(count: int) -> Iterator[tuple[str, int, int]]:
    """`image_id`, size and mtime of every row; the same each time."""
    generator = random.Random(0)
    for row in range(count):
        synset = f"n{1440764 + row // 1300 * 7919:08d}"
        size = int(generator.lognormvariate(11.5, 0.5))
        yield f"{synset}/{synset}_{row % 1300}.JPEG", size, 1_700_000_000_000_000_000 + generator.randrange(10**15)


def captions() -> Iterator[str]:
    """About 60 words each."""
    generator = random.Random(1)
    words = ["".join(generator.choices("aaeeiiooustrnlmdcbpg", k=generator.randint(2, 9))) for _ in range(5000)]
    while True:
        yield "The image shows " + " ".join(generator.choices(words, k=generator.randint(40, 80))) + "."


def question_of(image_id: str, size: int, mtime: int) -> Question:
    return Question(
        image_id=image_id,
        image={"bytes": None, "path": f"train/{image_id}"},
        prompt=PROMPT,
        key=KEYS.key(content_digest(image_id.encode()), PROMPT),  # in place of the bytes
        place=KEYS.place(image_id, size, mtime, PROMPT, "train"),
    )


def answered(rows: int) -> Iterator[tuple[Question, Answer]]:
    for image, caption in zip(images(rows), captions(), strict=False):
        yield question_of(*image), Answer(OK, caption, None, "stop", 612, 83, 1.234, 1)


def write_store(folder: Path, rows: int) -> dict:
    """Writes `rows` answers; what the system keeps of the files in memory is dropped."""
    stores = [AnswerStore(folder, rank) for rank in range(FILES)]
    pairs, puts = answered(rows), []
    began, began_cpu = time.perf_counter(), time.process_time()
    for store in cycle(stores):
        batch = list(islice(pairs, BATCH))
        if not batch:
            break
        start = time.perf_counter()
        store.put(batch)
        puts.append(time.perf_counter() - start)
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    for store in stores:
        store.close()
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {
        "rows": rows,
        "bytes": size,
        "bytes_a_row": size / rows,
        "files": FILES,
        "batch": BATCH,
        "write_seconds": seconds,
        "write_cpu_seconds": cpu,
        "answers_a_second": rows / sum(puts),
        "put_batch_ms": percentiles(puts),
    }


def memory(field: str) -> float:
    """MB of this process: VmRSS now, or VmHWM at most. (ru_maxrss counts that of the parent process, too.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def read_store(folder: Path, rows: int) -> dict:
    """For a process of its own: opens the store and looks for the rows it does not know."""
    import datasets  # noqa: F401  (part of every run, so that its memory counts)

    imported = memory("VmRSS")
    began, began_cpu = time.perf_counter(), time.process_time()
    store = AnswerStore(folder)
    opened, opened_cpu = time.perf_counter(), time.process_time()
    after_opening = memory("VmRSS")
    unknown, first = 0, None
    places_of_rows = (KEYS.place(image_id, size, mtime, PROMPT, "train") for image_id, size, mtime in images(rows))
    while together := list(islice(places_of_rows, TOGETHER)):  # as a run looks them up
        missing = len(together) - len(store.find_many(together))
        first = first or (time.perf_counter() if missing else None)
        unknown += missing
    done, done_cpu, peak = time.perf_counter(), time.process_time(), memory("VmHWM")
    chosen = set(random.Random(2).sample(range(rows - UNANSWERED), min(LOOKED_UP, rows - UNANSWERED)))
    asked = [question_of(*image) for row, image in enumerate(images(rows)) if row in chosen]
    random.Random(3).shuffle(asked)
    places, places_cpu = time.perf_counter(), time.process_time()
    found = [store.find_many([question.place])[question.place] for question in asked]
    keys, keys_cpu = time.perf_counter(), time.process_time()
    same = [store.find(question.key) for question in asked] == found
    end, end_cpu = time.perf_counter(), time.process_time()
    wrong = sum(record["image_id"] != question.image_id for record, question in zip(found, asked, strict=True))
    store.close()
    return {
        "unknown": unknown,
        "wrong": wrong + (not same),
        "open_seconds": opened - began,
        "open_cpu_seconds": opened_cpu - began_cpu,
        "seconds_to_first_question": first - began,
        "pass_seconds": done - opened,
        "pass_cpu_seconds": done_cpu - opened_cpu,
        "microseconds_by_place": (keys - places) / len(asked) * 1e6,
        "cpu_microseconds_by_place": (keys_cpu - places_cpu) / len(asked) * 1e6,
        "microseconds_by_key": (end - keys) / len(asked) * 1e6,
        "cpu_microseconds_by_key": (end_cpu - keys_cpu) / len(asked) * 1e6,
        "load_average": os.getloadavg()[0],
        "memory_mb_imports": imported,
        "memory_mb_opened": after_opening,
        "memory_mb_peak": peak,
    }


def write_alone(folder: Path) -> dict:
    """What an answer waits for the disk when it has a wait of its own; the store grows as it does so."""
    waits = []
    with AnswerStore(folder, FILES) as store:
        for pair in answered(ALONE):
            start = time.perf_counter()
            store.put([pair])
            waits.append(time.perf_counter() - start)
    return {"put_one_ms": percentiles(waits)}


def percentiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"median": cuts[49] * 1e3, "p99": cuts[98] * 1e3, "max": max(seconds) * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="the store goes into it")
    parser.add_argument("--read", type=Path, help="only read the store of this folder, and print what was found")
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read_store(args.read, args.rows)))
        return
    from provenance import RESULTS, provenance

    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        if shutil.disk_usage(temporary).free < 2000 * args.rows:
            raise SystemExit(f"too little room in {args.folder}; give another --folder.")
        folder = Path(temporary) / "answers"
        written = write_store(folder, args.rows - UNANSWERED)
        command = [sys.executable, __file__, "--read", str(folder), "--rows", str(args.rows)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        if found["unknown"] != UNANSWERED or found["wrong"]:
            raise SystemExit(f"the store does not know what it should: {found}")
        alone = write_alone(folder)
    results = {**provenance(), "written": written, "read": found, "alone": alone}
    print(json.dumps(results, indent=2))
    if args.rows == ROWS:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "store_scale.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

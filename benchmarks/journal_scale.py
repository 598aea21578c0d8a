"""
Going on with a data set as large as ImageNet's training set, all of it answered but the last rows: seconds and memory
until the first question is known. Seconds are by the clock and of the processor; only the latter leave out what else
runs on the machine. The journal is written first, by the writer itself, and then read in a process of its own, after
the system was asked to forget the files. Only the journal is measured: there are no images.

Then what durability costs: 200 answers a second through one writer, and as a comparison a wait for the disk after
each.

    python benchmarks/journal_scale.py

Takes 2 GB of disk. Writes results/journal_scale.json.
"""

import argparse
import hashlib
import itertools
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
from pathlib import Path

from g4i_hf.captioning.answers import OK, Answer, Question
from g4i_hf.captioning.journal.keys import Keys
from g4i_hf.captioning.journal.reader import Journal, JournalWriter

ROWS = 1_281_167
UNANSWERED = 1000  # the last rows
SEGMENTS = 8  # so many processes wrote
PROMPT = "Describe this image in detail."
KEYS = Keys({"model": "llava-hf/llava-1.5-7b-hf", "revision": "main", "decoding": {"max_new_tokens": 128}})
RATE, SECONDS = 200, 20  # answers a second, and for how long


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
    source = hashlib.blake2b(image_id.encode(), digest_size=16).hexdigest()  # in place of the bytes
    return Question(
        image_id=image_id,
        image={"bytes": None, "path": f"train/{image_id}"},
        prompt=PROMPT,
        key=KEYS.key(source, PROMPT),
        place=KEYS.place(image_id, size, mtime, PROMPT, "train"),
        source=source,
        size=size,
        mtime=mtime,
    )


def write_journal(folder: Path, rows: int) -> dict:
    """Journals `rows` answers; what the system keeps of the files in memory is dropped."""
    writers = [JournalWriter(folder) for _ in range(SEGMENTS)]
    began = time.perf_counter()
    for writer, image, caption in zip(itertools.cycle(writers), images(rows), captions(), strict=False):
        writer.append(question_of(*image), Answer(OK, caption, None, "stop", 612, 83, 1.234, 1))
    for writer in writers:
        writer.close()
    seconds = time.perf_counter() - began
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {"rows": rows, "bytes": size, "bytes_a_row": size / rows, "segments": SEGMENTS, "write_seconds": seconds}


def memory(field: str) -> float:
    """MB of this process: VmRSS now, or VmHWM at most. (ru_maxrss counts that of the parent process, too.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def read_journal(folder: Path, rows: int) -> dict:
    """For a process of its own: loads the journal and looks for the rows it does not know."""
    import datasets  # noqa: F401  (part of every run, so that its memory counts)

    imported = memory("VmRSS")
    began, began_cpu = time.perf_counter(), time.process_time()
    journal = Journal.load(folder)
    loaded, loaded_cpu = time.perf_counter(), time.process_time()
    after_load = memory("VmRSS")
    unknown, first, entries = 0, None, []
    for image_id, size, mtime in images(rows):
        entry = journal.find(KEYS.place(image_id, size, mtime, PROMPT, "train"))
        if entry is None:
            first = first or time.perf_counter()
            unknown += 1
        elif not len(entries) % 100 or len(entries) < 20_000:
            entries.append(entry)
    done, done_cpu = time.perf_counter(), time.process_time()
    for entry in entries:
        entry.read()
    read_cpu = time.process_time()
    return {
        "answers": len(journal),
        "unknown": unknown,
        "load_seconds": loaded - began,
        "seconds_to_first_question": first - began,
        "pass_seconds": done - loaded,
        "load_cpu_seconds": loaded_cpu - began_cpu,
        "pass_cpu_seconds": done_cpu - loaded_cpu,
        "read_cpu_microseconds_a_record": (read_cpu - done_cpu) / len(entries) * 1e6,
        "load_average": os.getloadavg()[0],
        "memory_mb_imports": imported,
        "memory_mb_loaded": after_load,
        "memory_mb_peak": memory("VmHWM"),
    }


def commit_times(folder: Path) -> dict:
    """What an answer waits for the disk when many share a wait, and when each has its own."""
    waits, real = [], os.fsync
    os.fsync = lambda descriptor: (waits.append(1), real(descriptor))
    images_and_captions = zip(images(RATE * SECONDS), captions(), strict=False)
    asked = [(question_of(*image), Answer(OK, caption)) for image, caption in images_and_captions]
    calls, durable = [], []
    with JournalWriter(folder) as writer:
        began = time.perf_counter()
        for number, (question, answer) in enumerate(asked):
            time.sleep(max(0.0, began + number / RATE - time.perf_counter()))
            start = time.perf_counter()
            writer.append(question, answer, lambda start=start: durable.append(time.perf_counter() - start))
            calls.append(time.perf_counter() - start)
        writer.flush()
        seconds = time.perf_counter() - began
    shared = len(waits)
    single = []
    with JournalWriter(folder) as writer:
        for question, answer in asked[:200]:
            start = time.perf_counter()
            writer.append(question, answer)
            writer.flush()
            single.append(time.perf_counter() - start)
    burst = time.perf_counter()
    with JournalWriter(folder) as writer:
        for question, answer in asked:
            writer.append(question, answer)
    burst = time.perf_counter() - burst
    os.fsync = real
    return {
        "answers_a_second": len(asked) / seconds,
        "waits_for_the_disk": shared,
        "append_call_ms": percentiles(calls),
        "until_durable_ms": percentiles(durable),
        "alone_until_durable_ms": percentiles(single),
        "burst_answers_a_second": len(asked) / burst,
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return {"median": cuts[49] * 1e3, "p99": cuts[98] * 1e3, "max": max(seconds) * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="the journal goes into it")
    parser.add_argument("--read", type=Path, help="only read the journal of this folder, and print what was found")
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read_journal(args.read, args.rows)))
        return
    from provenance import RESULTS, provenance

    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        if shutil.disk_usage(temporary).free < 2000 * args.rows:
            raise SystemExit(f"too little room in {args.folder}; give another --folder.")
        journal = Path(temporary) / "journal"
        written = write_journal(journal, args.rows - UNANSWERED)
        command = [sys.executable, __file__, "--read", str(journal), "--rows", str(args.rows)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        if found["unknown"] != UNANSWERED or found["answers"] != args.rows - UNANSWERED:
            raise SystemExit(f"the journal does not know what it should: {found}")
        commits = commit_times(Path(temporary) / "commits")
    results = {**provenance(), "journal": written, "resume": found, "durability": commits}
    print(json.dumps(results, indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "journal_scale.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

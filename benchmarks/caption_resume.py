"""
How long a captioning run of ImageNet's size takes to go on: from the start of `recipes/caption.py` to its first
request, with 1,281,167 rows of which all but the last thousand are in the journal, and the most memory until then.

    python benchmarks/caption_resume.py

The images are small, as none of those that are answered is opened; they lie in Parquet with an `image_id`, opened once
before, as they were by the run that was interrupted. Writes results/caption_resume.json. Needs 3 GB of disk.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from provenance import RESULTS, ROOT, provenance

sys.path.insert(0, str(ROOT / "tests" / "workers"))
ROWS, UNANSWERED = 1_281_167, 1000
BATCH = 256  # answers that are written together
CAPTION = "A brown dog lies on a grey sofa beside a red cushion, its head on its paws, looking at the camera. " * 3


def write_images(folder: Path, rows: int) -> None:
    """Bytes that differ; the last ones are pictures."""
    from caption_server import picture_of

    def content(row: int) -> bytes:
        if row < rows - UNANSWERED:
            return b"%064d" % row
        buffer = io.BytesIO()
        picture_of(row - (rows - UNANSWERED)).save(buffer, "PNG")
        return buffer.getvalue()

    folder.mkdir(parents=True)
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    info = {"info": {"features": {"image": {"_type": "Image"}, "image_id": {"dtype": "string", "_type": "Value"}}}}
    schema = pa.schema({"image": image, "image_id": pa.string()}, metadata={"huggingface": json.dumps(info)})
    with pq.ParquetWriter(folder / "train.parquet", schema) as writer:
        for start in range(0, rows, 50_000):
            numbers = range(start, min(rows, start + 50_000))
            images = [{"bytes": content(row), "path": None} for row in numbers]
            ids = [f"n{row % 1000:08d}/n{row % 1000:08d}_{row}.JPEG" for row in numbers]
            writer.write_table(pa.table([pa.array(images, image), pa.array(ids)], schema=schema))


def write_journal(data: Path, journal: Path, base_url: str) -> None:
    """Answers of all rows but the last, as a run would have written them."""
    from g4i_hf.captioning.answers import Answer, Question
    from g4i_hf.captioning.endpoint import EndpointCaptioner
    from g4i_hf.captioning.questions import Prompts, Questions
    from g4i_hf.captioning.store import AnswerStore, Keys
    from g4i_hf.data.loading import open_images

    split = open_images(str(data))["train"]
    keys = Keys(EndpointCaptioner("tiny", base_url).provenance)
    questions = Questions(split, "train", Prompts(["plain"], split.features, "train"), keys)
    answer = Answer("ok", CAPTION, finish_reason="stop", prompt_tokens=300, completion_tokens=80, seconds=1.0)
    rows = islice(questions.rows(), len(split) - UNANSWERED)
    with AnswerStore(journal) as store:
        while batch := list(islice(rows, BATCH)):
            keyed = [(row, keys.key(f"{row.number:032x}", row.prompts[0])) for row in batch]
            store.put((Question(row.image_id, {}, row.prompts[0], key, row.places[0]), answer) for row, key in keyed)


def peak_memory(process: int) -> float:
    """MB, of the process so far."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def resume(folder: Path, base_url: str) -> dict[str, float]:
    """Starts the script and waits for its first request."""
    command = [
        sys.executable,
        "recipes/caption.py",
        "--dataset_name",
        str(folder / "data"),
        "--base_url",
        f"{base_url}/v1",
    ]
    command += ["--captions_dir", str(folder / "captions"), "--captioner_model", "tiny", "--max_requests", "100"]
    start = time.monotonic()
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        while True:
            with urllib.request.urlopen(f"{base_url}/stats") as reply:
                if json.load(reply)["requests"]:
                    break
            if process.poll() is not None:
                raise SystemExit((folder / "log.txt").read_text()[-3000:])
            time.sleep(0.1)
        seconds, memory = time.monotonic() - start, peak_memory(process.pid)
        times = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        processor = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
        process.wait()
    return {"seconds_to_first_request": seconds, "processor_seconds": processor, "peak_memory_mb": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="caption-resume-"))
    os.environ["HF_HOME"] = str(folder / "home")
    os.environ.pop("HF_HUB_OFFLINE", None)
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "workers" / "caption_server.py")], stdout=subprocess.PIPE, text=True
    )
    try:
        base_url = f"http://127.0.0.1:{json.loads(server.stdout.readline())['port']}"
        write_images(folder / "data", args.rows)
        write_journal(folder / "data", folder / "captions.journal", base_url)
        size = sum(path.stat().st_size for path in (folder / "captions.journal").glob("*.sqlite"))
        found = {"rows": args.rows, "unanswered": UNANSWERED, "journal_bytes": size} | resume(folder, base_url)
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=2))
    if args.rows == ROWS:
        (RESULTS / "caption_resume.json").write_text(json.dumps({**provenance(), **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()

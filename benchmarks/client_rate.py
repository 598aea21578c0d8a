"""
What the client of `g4i caption` can ask: images that one core opens, shrinks, encodes and sends a second, against a
local server that answers at once, every answer on the disk before it counts. CPU seconds of the client alone, all its
threads; the server has a process of its own. Photographs of captioner_under_faults.py, and larger ones as of phones.

    python benchmarks/client_rate.py

Writes results/client_rate.json: also how many processes (`--num_processes`) a GPU takes that answers 500 a second.
"""

import argparse
import io
import json
import math
import os
import time
from pathlib import Path

from captioner_under_faults import HEIGHT, QUALITY, WIDTH, Server, ours, photographs, rows
from datasets import disable_progress_bars
from PIL import Image
from provenance import RESULTS, provenance

from g4i_hf.captioning.endpoint import EndpointCaptioner
from g4i_hf.captioning.images import data_uri

ENLARGED = (1, 8)  # 500 x 375, and 4000 x 3000: 12 megapixels
WANTED = 500  # answers a second of the GPU


def enlarged(file: bytes, times: int) -> bytes:
    if times == 1:
        return file
    buffer = io.BytesIO()
    Image.open(io.BytesIO(file)).resize((WIDTH * times, HEIGHT * times)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--output", type=Path, default=RESULTS / "client_rate.json")
    args = parser.parse_args()
    os.environ.pop("HF_HUB_OFFLINE", None)
    disable_progress_bars()
    measured, most = [], EndpointCaptioner("tiny", "http://127.0.0.1").decoding.max_side
    for times in ENLARGED:
        number = args.images // times
        split = rows([enlarged(file, times) for file in photographs()], number)
        start = time.process_time()
        for image in split["image"]:
            data_uri(image, most)
        encoding = time.process_time() - start
        with Server(0, 64, 0, "") as server:
            start = time.process_time()
            seconds, captions = ours(split, f"{server.url}/v1")
            used = time.process_time() - start
        assert captions == number
        measured.append(
            {
                "width": WIDTH * times,
                "height": HEIGHT * times,
                "images": number,
                "encoding_cpu_seconds": encoding,
                "cpu_seconds": used,
                "seconds": seconds,
                "images_per_cpu_second": number / used,
                "processes_for_500_a_second": math.ceil(WANTED * used / number),
            }
        )
        print(json.dumps(measured[-1]), flush=True)
    found = {**provenance(), "longest_side_sent": most, "measured": measured}
    args.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

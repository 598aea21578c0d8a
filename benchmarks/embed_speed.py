"""
Time of the embedding stage over that of `SentenceTransformer.encode`, same captions, batch size and thread. Both run
in turn in one process and one thread; what is compared is the processor's time, as other processes on a busy machine
do not count in it (the clock's is on record too). Ours counts tokens, sorts and encodes, up to the float16 vectors of
every row; the whole stage also loads the encoder and writes to disk.

    python benchmarks/embed_speed.py

Writes results/embed_speed.json.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from datasets import Dataset, DatasetDict, disable_progress_bars
from provenance import RESULTS, ROOT, provenance

from g4i_hf.data.loading import open_images
from g4i_hf.embedding import EncoderArguments, embed_stage, load_encoder
from g4i_hf.embedding.embed import encode_captions

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
TOLERANCE = 1e-3  # of the vectors; ours are float16


def captions_of(limit: int) -> dict[str, list[str]]:
    """Name -> captions: as in the data, the same without duplicates, and longer texts, all different."""
    splits = open_images(str(ROOT / "recipes" / "emoji_styles"))
    rows = [caption for split in splits.values() for caption in split["caption"]]
    distinct = list(dict.fromkeys(rows))
    generator = random.Random(0)
    generator.shuffle(rows)
    generator.shuffle(distinct)
    joined = [". ".join(generator.sample(distinct, generator.randint(1, 12))) for _ in range(limit // 4)]
    return {"Emoji Styles": rows[:limit], "Emoji Styles, distinct": distinct[:limit], "1 to 12 joined": joined}


def measure(captions: list[str], batch_size: int, rounds: int) -> dict:
    encoder = load_encoder(ENCODER)
    args = EncoderArguments(text_encoder=ENCODER, text_encoder_batch_size=batch_size)

    def peer() -> np.ndarray:
        return encoder.model.encode(
            captions, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )

    def ours() -> np.ndarray:
        return encode_captions(captions, encoder, args)[0]

    images = Dataset.from_dict({"image_id": [str(row) for row in range(len(captions))], "caption": captions})

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            embed_stage(DatasetDict(train=images), args, Path(folder) / "embeddings", source="captions")

    difference = float(np.abs(ours().astype(np.float32) - peer()).max())
    if difference > TOLERANCE:
        raise SystemExit(f"the vectors differ by {difference}, more than {TOLERANCE}")
    times, clock = ({"peer": [], "ours": [], "whole": []} for _ in range(2))
    for number in range(rounds):
        order = [("peer", peer), ("ours", ours), ("whole", whole)]
        for name, run in order if number % 2 else reversed(order):
            start = time.process_time(), time.perf_counter()
            run()
            times[name].append(time.process_time() - start[0])
            clock[name].append(time.perf_counter() - start[1])
    return summary(captions, encoder, times, clock) | {"batch_size": batch_size, "largest_difference": difference}


def summary(captions: list[str], encoder, times: dict[str, list[float]], clock: dict[str, list[float]]) -> dict:
    found = {
        "captions": len(captions),
        "distinct": len(set(captions)),
        "tokens_mean": statistics.mean(encoder.count_tokens(captions)),
        "peer_seconds": statistics.median(times["peer"]),
        "ours_seconds": statistics.median(times["ours"]),
        "whole_stage_seconds": statistics.median(times["whole"]),
    }
    kinds = {"ratio": ("ours", times), "whole_stage_ratio": ("whole", times), "clock_ratio": ("ours", clock)}
    for key, (name, measured) in kinds.items():
        ratios = [mine / other for mine, other in zip(measured[name], measured["peer"], strict=True)]
        found |= {key: statistics.median(ratios), f"{key}_quartiles": statistics.quantiles(ratios, n=4)[::2]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--captions", type=int, default=800, help="of each kind; a quarter of it for the longer ones")
    parser.add_argument("--batch_size", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    results = {}
    for name, captions in captions_of(args.captions).items():
        found = results[name] = measure(captions, args.batch_size, args.rounds)
        print(
            f"{name}: ours / SentenceTransformer.encode {found['ratio']:.3f}", found["ratio_quartiles"],
            f"by the clock {found['clock_ratio']:.3f}, whole stage {found['whole_stage_ratio']:.3f}", flush=True,
        )  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    made = {**provenance(), "threads": args.threads, "rounds": args.rounds, "encoder": ENCODER}
    (RESULTS / "embed_speed.json").write_text(json.dumps({**made, "captions": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""
Time of embedding captions with the text tower of CLIP RN50 over the official way: every caption padded to the 77
tokens of the window, in the order of the rows. Both run in turn in one process and one thread, the processor's time is
compared, and the vectors have to be the same. The weights are random and the tokens those of MiniLM: neither changes
how long it takes, and no checkpoint is needed.

    python benchmarks/embed_fixed_length.py

Writes results/embed_fixed_length.json.
"""

import argparse
import json
import statistics
import tempfile
import time

import numpy as np
import torch
import transformers
from embed_speed import ENCODER, TOLERANCE, captions_of
from provenance import RESULTS, provenance

from g4i_hf.embedding import EncoderArguments, load_encoder
from g4i_hf.embedding.embed import encode_captions

WINDOW = 77
SIZE = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
TOWER = SIZE | {"projection_dim": 1024, "vocab_size": 49408, "max_position_embeddings": WINDOW}


def write_tower(folder: str) -> None:
    names = ["input_ids", "attention_mask"]
    tokenizer = load_encoder(ENCODER).model.tokenizer
    tokenizer.model_input_names = names
    tokenizer.save_pretrained(folder)
    ends = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id}
    config = transformers.CLIPTextConfig(**TOWER, **ends, eos_token_id=tokenizer.sep_token_id)
    torch.manual_seed(0)
    transformers.CLIPTextModelWithProjection(config).save_pretrained(folder)


def measure(captions: list[str], encoder, batch_size: int, rounds: int) -> dict:
    @torch.inference_mode()
    def fixed_length() -> np.ndarray:
        vectors = []
        for start in range(0, len(captions), batch_size):
            tokens = encoder.tokenizer(
                captions[start : start + batch_size],
                padding="max_length",
                truncation=True,
                max_length=WINDOW,
                return_tensors="pt",
            )
            embeds = encoder.model(input_ids=tokens["input_ids"]).text_embeds
            vectors.append(torch.nn.functional.normalize(embeds, dim=1).numpy())
        return np.concatenate(vectors)

    def ours() -> np.ndarray:
        args = EncoderArguments(text_encoder_batch_size=batch_size)
        return encode_captions(captions, encoder, args)[0]

    found, times = {}, {"fixed_length": [], "ours": []}
    ways = [("fixed_length", fixed_length), ("ours", ours)]
    for number in range(rounds):
        for name, run in ways if number % 2 else reversed(ways):
            start = time.process_time()
            found[name] = run()
            times[name].append(time.process_time() - start)
    difference = float(np.abs(found["ours"].astype(np.float32) - found["fixed_length"]).max())
    if difference > TOLERANCE:
        raise SystemExit(f"the vectors differ by {difference}, more than {TOLERANCE}")
    ratios = [other / mine for mine, other in zip(times["ours"], times["fixed_length"], strict=True)]
    return {
        "captions": len(captions),
        "distinct": len(set(captions)),
        "tokens_mean": statistics.mean(encoder.count_tokens(captions)),
        "fixed_length_seconds": statistics.median(times["fixed_length"]),
        "ours_seconds": statistics.median(times["ours"]),
        "speed_ratio": statistics.median(ratios),
        "speed_ratio_range": [min(ratios), max(ratios)],
        "largest_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--captions", type=int, default=48, help="of each kind; a quarter of it for the longer ones")
    parser.add_argument("--batch_size", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        write_tower(folder)
        encoder = load_encoder(folder)
        results = {}
        for name, captions in captions_of(args.captions).items():
            results[name] = measure(captions, encoder, args.batch_size, args.rounds)
            print(name, results[name], flush=True)
    made = {**provenance(), "threads": 1, "rounds": args.rounds, "batch_size": args.batch_size, "tower": TOWER}
    (RESULTS / "embed_fixed_length.json").write_text(json.dumps({**made, "captions": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()

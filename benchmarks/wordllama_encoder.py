"""
A second text encoder that needs no Hub, for the ablations: the token embeddings that the package wordllama carries
(256 numbers a token, averaged over a caption), written as a folder that sentence-transformers loads.

    pip install wordllama
    python benchmarks/wordllama_encoder.py
"""

import argparse
import importlib.util
import sys
from pathlib import Path

from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
from tokenizers import Tokenizer

FOLDER = "runs/encoders/wordllama"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", default=FOLDER)
    args = parser.parse_args()
    package = importlib.util.find_spec("wordllama")
    if package is None:
        sys.exit("The package wordllama is not there: pip install wordllama")
    package = Path(package.origin).parent
    (weights,) = load_file(package / "weights" / "l2_supercat_256.safetensors").values()
    tokenizer = Tokenizer.from_file(str(package / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokens = StaticEmbedding(tokenizer, embedding_weights=weights.astype("float32"))
    SentenceTransformer(modules=[tokens, Normalize()]).save(args.output_dir)
    print(f"{args.output_dir}: {weights.shape[0]:,} tokens of {weights.shape[1]} numbers")


if __name__ == "__main__":
    main()

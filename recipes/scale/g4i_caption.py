# /// script
# requires-python = ">=3.11"
# dependencies = ["g4i_hf"]
# ///
"""
Caption an image dataset of the Hub and push the captions, with nothing installed but uv or the Hub's `hf`:

    hf jobs uv run --flavor l4x1 --secrets HF_TOKEN g4i_caption.py me/photos me/photos-captions
    uv run g4i_caption.py me/photos me/photos-captions --base_url http://127.0.0.1:8000/v1 --captioner_model NAME

Without a model, Qwen/Qwen2.5-VL-3B-Instruct runs here. All options that are not below are those of `g4i caption`,
such as --prompt, --caption_splits and --dry_run.
"""

import argparse
import subprocess
import sys

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="Hub id of the images")
    parser.add_argument("captions", help="Hub id of the dataset of captions; private when it is new")
    parser.add_argument("--license", help="licence of the captions, for their card")
    parser.add_argument("--with_images", action="store_true", help="push the images too, in a dataset of its own")
    parser.add_argument("--captions_dir", default="captions", help="folder for the captions, and for resuming")
    args, options = parser.parse_known_args()
    words = [option.split("=")[0].replace("-", "_") for option in options]
    if "__captioner_model" not in words and "__config" not in words:
        options += ["--captioner_model", DEFAULT_MODEL]
    g4i("caption", "--dataset_name", args.dataset, "--captions_dir", args.captions_dir, *options)
    if "__dry_run" in words:
        return
    published = ["--repo_id", args.captions, "--push_to_hub", "true"]
    if args.license:
        published += ["--license", args.license]
    if args.with_images:
        published += ["--with_images", "true"]
    g4i("release", "--stage", args.captions_dir, *published)


def g4i(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", "g4i_hf", *command])
    if done.returncode != 0:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()

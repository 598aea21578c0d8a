# /// script
# requires-python = ">=3.11"
# dependencies = ["g4i_hf[captioner,hub,server] @ git+REPOSITORY_URL"]
# ///
"""
Captions an image dataset of the Hub with a vision-language model, and pushes the captions if `--push_to` names where:

    uv run caption.py me/photos --dry_run 8
    hf jobs uv run --flavor l4x1 --secrets HF_TOKEN caption.py me/photos --push_to me/photos-captions
    uv run caption.py me/photos --base_url http://127.0.0.1:8000/v1 --captioner_model NAME

Other options are those of `g4i caption`, such as --prompt and --caption_splits.
"""

import argparse
import subprocess
import sys

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("dataset", help="Hub id of the images")
    parser.add_argument("--push_to", "--push-to", help="Hub id for the captions; a new repository is private")
    parser.add_argument("--dry_run", "--dry-run", help="caption this number of images, print costs, push nothing")
    parser.add_argument("--license", help="license of the captions, for their card")
    parser.add_argument("--with_images", "--with-images", action="store_true", help="push the images too")
    parser.add_argument("--captions_dir", "--captions-dir", default="captions", help="folder for the captions")
    parser.add_argument("--captioner_model", "--captioner-model", default=DEFAULT_MODEL, help="%(default)s by default")
    args, options = parser.parse_known_args()
    if args.push_to and not args.dry_run:
        check_push(args.push_to)
    words = ["--captions_dir", args.captions_dir, "--captioner_model", args.captioner_model, *options]
    if args.dry_run:
        words += ["--dry_run", args.dry_run]
    g4i("caption", "--dataset_name", args.dataset, *words)
    if args.push_to and not args.dry_run:
        published = ["--repo_id", args.push_to, "--push_to_hub", "true"]
        published += ["--license", args.license] if args.license else []
        published += ["--with_images", "true"] if args.with_images else []
        g4i("release", "--stage", args.captions_dir, *published)


def check_push(repo_id: str) -> None:
    """Before anything is paid for: whether that is a Hub id, and whether the Hub knows the token."""
    from huggingface_hub import whoami

    from g4i_hf.options.evaluation import check_repo_id

    try:
        check_repo_id("push_to", repo_id, with_namespace=True)
        whoami()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def g4i(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", "g4i_hf", *command])
    if done.returncode != 0:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()

# /// script
# requires-python = ">=3.11"
# dependencies = ["g4i_hf[demo,hub] @ git+REPOSITORY_URL"]
# ///
"""
Fits a student on a dataset of the Hub, by captions, labels or views, and pushes it if `--push_to` names where:

    uv run fit.py me/photos-captions --dry_run
    uv run fit.py me/photos --views image:student image:google/siglip2-base-patch16-224
    hf jobs uv run --flavor l4x1 --secrets HF_TOKEN fit.py me/photos-captions --push_to me/photos-student

Other options are those of `g4i fit`, such as --student, --views, --finetune and --minutes.
"""

import argparse
import subprocess
import sys


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("dataset", help="Hub id of images")
    parser.add_argument("--push_to", "--push-to", help="Hub id for the student; a new repository is private")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="print the decisions, push nothing")
    parser.add_argument("--license", help="license of the student, for its card")
    parser.add_argument("--output_dir", "--output-dir", default="fitted", help="folder for everything")
    args, options = parser.parse_known_args()
    if args.push_to and not args.dry_run:
        check_push(args.push_to)
    words = ["--output_dir", args.output_dir, *options]
    g4i("fit", args.dataset, *words, *(["--dry_run"] if args.dry_run else []))
    if args.push_to and not args.dry_run:
        published = ["--repo_id", args.push_to, "--push_to_hub", "true"]
        published += ["--license", args.license] if args.license else []
        g4i("release", "--run", args.output_dir, *published)


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

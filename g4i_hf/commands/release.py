"""Release the student of a run as a plain checkpoint with a card, or a stage as a dataset.

    g4i release --run runs/emoji_styles/aligned --baseline runs/emoji_styles/baseline
    g4i release --stage runs/emoji_styles/embeddings --repo_id me/emoji-captions

transformers loads the student without this package; timm loads timm students too. Nothing is pushed without
--push_to_hub; --dry_run lists what would be pushed, and writes nothing.
"""

import tempfile
from pathlib import Path

from ..cli import check_paths, quiet_libraries
from ..extras import require
from ..options import OPTIONS_OF

OPTIONS = OPTIONS_OF["release"]
DEFAULT_CONFIG = "emoji_styles/release.yaml"


def check(args) -> None:
    kind, folder = ("stage", args.stage) if args.stage else ("run", args.run)
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no {kind} {folder!r}: no such folder. Name yours with --run or --stage.")
    check_paths(baseline=args.baseline)
    for name in ("seed_runs", "seed_baselines"):
        for each in getattr(args, name) or []:
            check_paths(**{name: each})
    if args.push_to_hub or args.dry_run:  # before anything is made
        require("detect_secrets", "hub", "The search for secrets before a push")


def run(args) -> None:
    import torch
    from accelerate import PartialState

    from ..workflows.release import Release

    state = PartialState(cpu=not torch.accelerator.is_available())
    quiet_libraries(state.is_main_process)
    if not state.is_main_process:
        return
    if args.dry_run:
        with tempfile.TemporaryDirectory() as scratch:
            release = Release(args, Path(scratch))
            release.build()
            print(*release.lines, *release.listed(), sep="\n", flush=True)
            release.look_through()
        print("No local path, host name or token was found in them. Nothing was written or pushed.")
        return
    release = Release(args)
    release.build()
    print(*release.lines, sep="\n")
    if args.push_to_hub:
        for line in release.push():
            print(line, flush=True)

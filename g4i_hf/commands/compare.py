"""Compare variants of training over students and seeds; each cell of the grid is one run.

    g4i compare --config recipes/emoji_styles/compare.yaml --dry_run
    g4i compare --config recipes/emoji_styles/compare.yaml --processes 2
    g4i compare --config recipes/emoji_styles/compare.yaml --final

A finished cell is a line in `results`. To resume, run the same command again. Only `--final` uses the labels of
`final_splits`, and logs that in `openings`.
"""

import os

from ..cli import OptionError, check_paths, quiet_libraries
from ..options import OPTIONS_OF

OPTIONS = OPTIONS_OF["compare"]
DEFAULT_CONFIG = "emoji_styles/compare.yaml"


def check(args) -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise OptionError("Cells are trained by one process each: launch one, and give --processes.")
    check_paths(train_config=args.train_config)


def run(args) -> None:
    quiet_libraries(True)
    from ..workflows.compare import Study

    study = Study(args)
    if args.check_cell:
        other = study.check_cell()
        print(f"{args.check_cell}: {other or 'the same to the bit'}")
        if other:
            raise SystemExit(1)
        return
    if args.dry_run or study.missing:
        print(study.plan(), flush=True)
    if args.dry_run:
        return
    if args.final and study.missing:
        raise ValueError("--final scores a grid that is whole: run it without first.")
    study.train()
    print("\n" + study.score(), flush=True)
    print(*study.write(), sep="\n")

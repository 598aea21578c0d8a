"""From a folder of images to a classifier, its baseline, and a report: one command.

    g4i fit pictures
    g4i fit --config recipes/emoji_styles/fit.yaml
    g4i fit pictures --captioner Qwen/Qwen2.5-VL-3B-Instruct --minutes 30 --seeds 3

Checks the data, and holds out a validation split if there is none. Embeds the captions and decides how to use them.
Trains the classifier with captions and without, and compares both on `validation`. It never reads `test`, and sends
training images nowhere unless `--captioner` is a server. To resume, run the same command again.
"""

import os
from functools import partial
from pathlib import Path

from ..cli import OptionError, check_data, check_paths, quiet_libraries
from ..options import OPTIONS_OF

OPTIONS = OPTIONS_OF["fit"]
RECIPES = (Path(__file__).parents[1] / "recipes").resolve()
DEFAULT_CONFIG = "emoji_styles/fit.yaml"


def check(args, data) -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise OptionError("fit starts the processes that it needs: launch one.")
    check_paths(train_config=args.train_config)
    bundled = RECIPES / data.dataset_name
    if not Path(data.dataset_name).exists() and (bundled / "data").is_dir():
        args.output_dir = args.output_dir or f"runs/{data.dataset_name}/fit"
        data.dataset_name = str(bundled)
    check_data(data)


def run(args, data) -> None:
    from ..workflows.fit import Fit

    quiet_libraries(True)
    Fit(args, data, say=partial(print, flush=True)).run()

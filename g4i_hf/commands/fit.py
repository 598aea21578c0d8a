"""From a folder of images to a classifier, its baseline, and a report: one command.

    g4i fit pictures
    g4i fit --config recipes/emoji_styles/fit.yaml
    g4i fit pictures --captioner Qwen/Qwen2.5-VL-3B-Instruct --minutes 30 --seeds 3

Checks the data, holds out a validation split if there is none, embeds the captions, decides how to use them, trains
the classifier with captions and without, and compares both on `validation`. It never opens `test`, and sends images
nowhere unless `--captioner` is a server. To resume, run the same command again.
"""

from functools import partial
from pathlib import Path

from ..cli import OptionError, check_data, quiet_libraries
from ..options import OPTIONS_OF

OPTIONS = OPTIONS_OF["fit"]
RECIPES = (Path(__file__).parents[1] / "recipes").resolve()
DEFAULT_CONFIG = "emoji_styles/fit.yaml"


def check(args, data) -> None:
    is_server = (args.captioner or "").startswith(("http://", "https://"))
    if is_server and not args.captioner_model:
        raise OptionError("captioner is a server: name its model with --captioner_model.")
    bundled = RECIPES / data.dataset_name
    if not Path(data.dataset_name).exists() and (bundled / "data").is_dir():
        args.output_dir = args.output_dir or f"runs/{data.dataset_name}/fit"
        data.dataset_name = str(bundled)
    check_data(data)


def run(args, data) -> None:
    from ..workflows.fit import Fit

    quiet_libraries(True)
    Fit(args, data, say=partial(print, flush=True)).run()

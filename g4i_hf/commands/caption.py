"""Caption every image of a dataset, or import existing captions.

    g4i caption --dataset_name pictures --captions_dir runs/pictures/captions \\
        --captioner_model Qwen/Qwen2.5-VL-3B-Instruct --dry_run 8
    g4i caption --dataset_name pictures --captions_dir runs/pictures/captions \\
        --base_url http://127.0.0.1:8000/v1 --captioner_model Qwen/Qwen2.5-VL-7B-Instruct

Answers are saved on arrival. To resume, run the same command again. Without options it captions the Shapes recipe with
the small model of that recipe.
"""

import sys
from functools import partial

from ..cli import check_data, check_paths, quiet_libraries
from ..options import OPTIONS_OF

OPTIONS = OPTIONS_OF["caption"]
DEFAULT_CONFIG = "shapes/caption.yaml"


def check(args, data, local, endpoint, existing, quality) -> None:
    args.kind(endpoint.base_url, existing.captions_file, data.caption_column)
    check_paths(captions_file=existing.captions_file, synonyms_file=quality.synonyms_file)
    check_data(data)


def run(*options) -> None:
    from ..workflows.caption import Captioning

    captioning = Captioning(*options, say=partial(print, flush=True))
    quiet_libraries(captioning.share.is_first)
    try:
        captioning.run()
    except KeyboardInterrupt:
        print("Interrupted. Every answer so far is kept; the same command resumes.", file=sys.stderr)
        raise SystemExit(130) from None

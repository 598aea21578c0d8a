"""
The views that a practitioner has at hand, through `g4i fit`: SigLIP 2, DINOv2, and a small vision-language model that
describes each training image and is asked for its class. For a machine with the Hub and a GPU; an evening.

    pip install -e '.[demo]'
    python benchmarks/with_the_hub.py PHOTOS

PHOTOS, training rows, draws of labels and settings are those of photos_fit.py, without wrong labels; its captions
are not used. Every set of views has the features of the student too, EfficientNet-Lite0. Rows have the accuracy of
the classifiers on `test`, and what `fit` says of them. Stages in `--cache` are kept. Writes results/with_the_hub.json.
"""

from itertools import product
from pathlib import Path

from datasets import DatasetDict
from photos import ENCODER, parsed, parser_of, photos_of
from photos_fit import drawn, measured
from result_files import Results

from g4i_hf import caption_images, embed_view

ENCODERS = ["google/siglip2-base-patch16-224", "facebook/dinov2-small"]
CAPTIONER = "HuggingFaceTB/SmolVLM-Instruct"
SETTINGS = ("none", "1 a class", "4 a class")
STUDENT, ASKED = "image:student", ("caption", "answer")
KEY = ("data", "setting", "seed", "views")


def asked(photos: DatasetDict, captioner: str, cache: Path) -> DatasetDict:
    """The photographs, with a caption and an answer of this model for each of `train`."""
    images = cache / "images"
    if not images.is_dir():
        DatasetDict(train=photos["train"].remove_columns("caption")).save_to_disk(images)
    options = {"captioner_model": captioner, "prompt": ["plain", "choose"]}
    return DatasetDict(photos | {"train": caption_images(images, cache / "captions", **options)["train"]})


def sets_of(photos: DatasetDict, encoders: list[str], cache: Path) -> dict[str, list[str]]:
    """Names and folders of the views in each set, by its name."""
    training = DatasetDict(train=drawn(photos["train"], "none", 0))
    folders = {name: str(embed_view(training, f"image:{name}", cache)) for name in encoders}
    found = {"student": [], **{view: [view] for view in ASKED}, "caption, answer": [*ASKED]}
    found |= {name: [folder] for name, folder in folders.items()}
    found |= {f"caption, answer, {name}": [*ASKED, folder] for name, folder in folders.items()}
    return {name: [*views, STUDENT] for name, views in (found | {"all": [*ASKED, *folders.values()]}).items()}


def tells_nothing(name: str, setting: str, encoders: list[str]) -> bool:
    """Whether neither labels nor class names are there: of encoders, the first has a text tower."""
    return setting == "none" and name in ("student", *encoders[1:])


def main() -> None:
    parser = parser_of(__doc__, cache="runs/with_the_hub")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=SETTINGS)
    parser.add_argument("--captioner", default=CAPTIONER)
    parser.add_argument("--encoders", nargs="+", default=ENCODERS, help="the first one with a text tower")
    parser.add_argument("--text_encoder", default=ENCODER)
    parser.add_argument("--student", help="another one than `g4i fit` has")
    args = parsed(parser)
    results = Results(args.results / "with_the_hub.json", KEY)
    options = {"student": args.student, "text_encoder": args.text_encoder}
    for data in args.data:
        cache = args.cache / data
        photos = asked(photos_of(args.photos, data), args.captioner, cache)
        sets = sets_of(photos, args.encoders, cache)
        for (name, views), setting, seed in product(sets.items(), args.settings, args.seeds):
            key = data, setting, seed, name
            if not results.has(*key) and not tells_nothing(name, setting, args.encoders):
                results.add(*key, **measured(photos, setting, False, seed, cache, views=views, **options))


if __name__ == "__main__":
    main()

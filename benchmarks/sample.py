"""
What a sample costs: test accuracy of `g4i fit --sample` with 1/3, 1/10 and 1/30 of the training images.

    pip install -e '.[demo]'
    python benchmarks/sample.py PHOTOS --data caltech101 --seeds 0
    python benchmarks/sample.py PHOTOS --data cifar10 --seeds 0 --settings "1 a class"

PHOTOS and settings are those of photos_fit.py, without `validation`. Of CIFAR-10, 3,000 images of `test` are scored.
Writes results/sample.json.
"""

from itertools import product

from photos import parsed, parser_of, photos_of
from photos_fit import measured
from result_files import Results

SETTINGS = ("1 a class", "all")
PARTS = (1, 3, 10, 30)  # of the training images, one in so many
KEY = ("data", "setting", "part", "seed")
MOST_TESTED = 3_000


def main() -> None:
    parser = parser_of(__doc__, cache="runs/sample")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=SETTINGS)
    args = parsed(parser)
    results = Results(args.results / "sample.json", KEY)
    for seed, data in product(args.seeds, args.data):
        photos = photos_of(args.photos, data)
        tested = photos["test"].shuffle(seed=0).select(range(min(len(photos["test"]), MOST_TESTED)))
        photos["test"] = tested.flatten_indices()
        for setting, part in product(args.settings, PARTS):
            key = data, setting, part, seed
            if not results.has(*key):
                images = len(photos["train"]) // part
                found = measured(photos, setting, False, seed, args.cache / data, sample=images)
                results.add(*key, images=images, test_images=len(tested), **found)


if __name__ == "__main__":
    main()

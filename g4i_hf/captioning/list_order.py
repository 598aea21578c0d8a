"""Lists of captions without file names: the order of their images, and a test whether the captions are in it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mode
from typing import Any

import numpy as np
from datasets import Dataset

from .. import columns
from ..data.images import image_paths, open_image, why_bad
from ..data.stage import ids_digest

LIST_SUFFIXES = (".txt", ".json", ".pth", ".pt")
BY_NAME = "Or give captions with the names of their images, as a .jsonl or .csv file."
MIN_SAMPLE = 8
SIGNIFICANT = 0.025  # one-sided


def read_list(path: Path) -> list[str | None]:
    """
    Reads a .txt (a caption a line; an empty line is no caption), a .json (a list of strings), or a .pth or .pt (a list
    of strings written by `torch.save`; nothing else is unpickled).

    Raises:
        ValueError: when the file holds anything else.
    """
    try:
        if path.suffix.lower() in (".pth", ".pt"):
            import torch

            captions = torch.load(path, map_location="cpu", weights_only=True)
        else:
            with path.open(encoding="utf-8-sig") as file:
                captions = json.load(file) if path.suffix.lower() == ".json" else [line.rstrip("\n") for line in file]
        if not isinstance(captions, list) or not all(isinstance(caption, str | None) for caption in captions):
            raise ValueError("no list of texts")
    except Exception as error:  # of torch: UnpicklingError, EOFError, RuntimeError
        raise ValueError(
            f"{path.name} holds no list with one text an image: UTF-8 with a line a caption (.txt), a list of strings "
            "(.json), or such a list saved by torch (.pth), which is refused if reading it would run code. Several "
            "captions an image, or captions with the names of their images, go into a .jsonl file."
        ) from error
    return captions


def folder_order(split: Dataset, split_name: str, names: list[str | None]) -> tuple[list[int], str]:
    """
    The rows of a split, whose files are called `names`, in the order of torchvision's `ImageFolder`, and a hash of the
    sorted names: class folders by name, and the files in each by name, as Python sorts strings.

    Raises:
        ValueError: when the order is unknown: rows without file names, two files of one name, folders inside class
            folders, or fewer class folders than classes.
    """
    # `ImageFolder` sorts by the outermost folder, `image_id` keeps the innermost
    paths = image_paths(split) if columns.IMAGE in split.column_names else []
    roots = {Path(path or "").parent.parent for path, _ in paths}
    folders = {(name or "").rpartition("/")[0] for name in names}
    why = None
    if None in names:
        row = names.index(None)
        why = f"row {row}, image_id {split[row][columns.IMAGE_ID]!r}, has no file name"
    elif len(set(names)) < len(names):
        why = f"several files are called {mode(names)!r}"
    elif len(roots) > 1:
        why = f"{' and '.join(sorted(map(str, roots))[:2])} both have folders of images"
    elif "" in folders and len(folders) > 1:
        why = "some images have a class folder and others have none"
    elif columns.LABEL in split.column_names and len(classes := set(split[columns.LABEL])) > len(folders):
        why = f"its images are of {len(classes)} classes, but in {len(folders)} folders"
    if why:
        raise ValueError(f"Split {split_name!r}: {why}, so the order of a list of its files is not known. {BY_NAME}")
    # A zero is below all letters: this compares folders first, then files
    rows = sorted(range(len(names)), key=[name.replace("/", "\0") for name in names].__getitem__)
    return rows, ids_digest(names[row] for row in rows)


def check_order(
    images: Dataset, captions: Sequence[str | None], scorer: Callable, sample: int = 256
) -> dict[str, Any]:
    """
    Tests on a random sample whether images fit their own captions better than the previous caption, the next one and
    a random one (paired t-tests). Finds a shift of most of the list, captions of other images and, with labels,
    captions shuffled within classes; does not find a few captions out of place.

    Args:
        images: with `image`, not decoded, in the order of the list. With `label`, only images between two of their own
            class are taken.
        scorer: n images and n texts -> n scores, such as [`~g4i_hf.captioning.quality.ClipScorer`].
        sample: number of images.

    Returns:
        `order`, which is `verified`, and the test results, as JSON values.

    Raises:
        ValueError: when the captions do not fit significantly better where they are; with the test results.
    """
    from scipy import stats

    has_text = np.array([bool(caption and caption.strip()) for caption in captions])
    usable = has_text[:-2] & has_text[1:-1] & has_text[2:]
    if columns.LABEL in images.column_names:  # across classes, a list that is shuffled within them would fit too
        labels = np.array(images[columns.LABEL])
        usable &= (labels[:-2] == labels[1:-1]) & (labels[1:-1] == labels[2:])
    rng = np.random.default_rng(0)
    places = rng.permutation(np.flatnonzero(usable) + 1)[:sample]
    anywhere = rng.permutation(np.flatnonzero(has_text))[: len(places)]
    scores = []
    for four in zip(places, places - 1, places + 1, anywhere, strict=True):
        image = images[int(four[0])][columns.IMAGE]
        if why_bad(image) is None:
            scores.append(scorer([open_image(image)] * 4, [captions[place] for place in four]))
    if len(scores) < MIN_SAMPLE:
        raise ValueError(
            f"The order of the list cannot be checked: {len(scores)} images can be read and lie between two of their "
            f"class with captions, at least {MIN_SAMPLE} are needed. Leave out --order_scorer to leave it unverified."
        )
    own, *others = np.array(scores, dtype=np.float64).T
    tests = {}
    for name, other in zip(("previous", "next", "random"), others, strict=True):
        p = float(stats.ttest_rel(own, other, alternative="greater").pvalue)
        tests[name] = {"difference": round(float((own - other).mean()), 5), "p": p}
    numbers = ", ".join(f"{name} {test['difference']:+.4f} (p {test['p']:.2g})" for name, test in tests.items())
    if failed := [name for name, test in tests.items() if not test["p"] < SIGNIFICANT]:
        raise ValueError(
            f"The order of the list is not verified: {len(scores)} images do not fit their own captions significantly "
            f"better than the {' or '.join(failed)} one. Mean difference of scores: {numbers}. The list is of other "
            "images or in another order, or the model cannot tell these images apart: take a better one with "
            f"--order_scorer. {BY_NAME}"
        )
    return {"order": "verified", "sample": len(scores), "tests": tests}

"""The figures that a card shows: of the released weights, beside the baseline's, and over seeds."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.comparison import MEASURES, ComparisonRow, SeedRow, compare, compare_seeds
from ..evaluation.evaluate import RESULTS_FILE
from ..options import ReleaseArguments, learned_from_captions
from ..training.lineage import read_lineage
from ..training.run_folder import NOT_COMPARED, PATHS, read_options

logger = logging.getLogger(__name__)

SEEDS = {"seed", "data_seed"}
DEFAULT_SEED = 42  # of Trainer, whose options are kept where they differ from their defaults
# Where a baseline leaves unlabelled images out: they teach it nothing, and it may take as many steps all the same
OF_UNLABELLED = ("unlabelled", "max_steps", "num_train_epochs")
# Options in which a baseline may differ: those of the text side, which it lacks, and how a run is watched and stored
OF_TEXTS = ("align_", "teacher_", "supervision", "soft_label_", "image_features", "projector_", "text_encoder")
OF_TEXTS += ("captions_", "caption_", "text_embeds_")
OF_KEEPING = ("logging_", "log_", "save_", "hub_", "push_to_hub", "dataloader_num_workers", "dataloader_prefetch")
OF_NEITHER = {"label_noise", "long_captions", "with_images", "per_device_eval_batch_size", "eval_on_start"}
DATA = {"dataset_name", "dataset_config_name", "dataset_revision", "image_column", "image_id_column", "label_column"}


@dataclass
class Seeds:
    """
    Attributes:
        rows: each measure over the seeds.
        seeds: in the order of the runs, the released one first.
    """

    rows: list[SeedRow]
    seeds: list[int]


def comparison(args: ReleaseArguments) -> list[ComparisonRow]:
    """
    Rows of the run's figures, beside the baseline's where one is given; empty before any evaluation.

    Raises:
        ValueError: when the baseline learned from captions, or differs from the run in more than the alignment.
    """
    if args.baseline:
        _check_baseline(args.run, args.baseline)
    results = figures(args.run, args.weights)
    baseline = figures(args.baseline, args.weights) if args.baseline else None
    return compare(results, baseline, _in_order(_splits(results), args.run))


def figures(run: str | Path, weights: str) -> dict[str, Any]:
    """Those of the weights that are released: a split may have been evaluated with the others."""
    path = Path(run) / RESULTS_FILE
    found = json.loads(path.read_text()) if path.is_file() else {}
    for split in _splits(found):
        if found.get(f"{split}_weights", "raw") != weights:
            logger.warning(
                "%s: %s was not evaluated with the %s weights, see --weights of g4i evaluate.", run, split, weights
            )
            others = {f"{split}_{name}" for name in (*MEASURES, "samples")}
            found = {key: value for key, value in found.items() if key not in others}
    return found


def over_seeds(args: ReleaseArguments) -> Seeds | None:
    """
    The run and those of other seeds, each against its own baseline.

    Returns:
        None where no other runs are given.

    Raises:
        ValueError: when a run differs from the released one in more than its seed, has the same seed, or another than
            its baseline; when there is not a baseline for each run; when a run lacks figures.
    """
    if not args.seed_runs:
        if args.seed_baselines:
            raise ValueError("seed_baselines are given without seed_runs: give the runs that they belong to.")
        return None
    runs = _others(args.run, args.seed_runs)
    baselines = _others(args.baseline, args.seed_baselines or []) if args.baseline else []
    if args.seed_baselines and not args.baseline:
        raise ValueError("seed_baselines are given without the baseline of the run itself: give it as --baseline.")
    if baselines and len(baselines) != len(runs):
        raise ValueError(
            f"There are {len(runs)} runs with the released one, but {len(baselines)} baselines: give one for each in "
            "seed_baselines, in the same order, or none at all."
        )
    seeds = _seeds(runs, "seed_runs")
    if baselines and _seeds(baselines, "seed_baselines") != seeds:
        raise ValueError(
            f"The runs have the seeds {seeds}, their baselines {_seeds(baselines, 'seed_baselines')}: a difference is "
            "taken between a run and the baseline of the same seed. Give them in the same order."
        )
    found = {run: figures(run, args.weights) for run in (*runs, *baselines)}
    splits = _splits(found[runs[0]])
    for run in (*runs, *baselines):
        missing = [split for split in splits if f"{split}_accuracy" in found[runs[0]].keys() - found[run].keys()]
        if missing:
            raise ValueError(f"{run} has no figures of {missing[0]!r}: evaluate it with g4i evaluate --run {run}.")
    results, others = ([found[run] for run in several] for several in (runs, baselines))
    return Seeds(compare_seeds(results, others, _in_order(splits, args.run)), seeds)


def _splits(results: dict[str, Any]) -> list[str]:
    return [key.removesuffix("_samples") for key in results if key.endswith("_samples")]


def _in_order(splits: list[str], run: str | Path) -> list[str]:
    """As the data has them; the file of figures is sorted by name."""
    known = list(read_lineage(run).get("rows", ()))
    return sorted(splits, key=lambda split: known.index(split) if split in known else len(known))


def _others(run: str, more: list[str]) -> list[str]:
    """The run and the others, each once: a list of all seeds may hold the released one too."""
    named = [name for word in more for name in word.split(",") if name]
    return [run, *(other for other in named if Path(other).resolve() != Path(run).resolve())]


def _seeds(runs: list[str], option: str) -> list[int]:
    """
    Raises:
        ValueError: when the runs differ in more than their seed, or not in it.
    """
    first, seeds = _comparable(runs[0]), []
    for run in runs:
        options = _comparable(run)
        differing = sorted(name for name in first.keys() | options.keys() if first.get(name) != options.get(name))
        if differing:
            raise ValueError(
                f"{option}: {run} was trained with another {differing[0]} ({options.get(differing[0])!r}) than "
                f"{runs[0]} ({first.get(differing[0])!r}). Only the seed may differ."
            )
        seed = int(read_options(run).get("seed", DEFAULT_SEED))
        if seed in seeds:
            raise ValueError(f"{option}: {run} has the seed {seed}, as {runs[seeds.index(seed)]} has.")
        seeds.append(seed)
    return seeds


def _check_baseline(run: str, baseline: str) -> None:
    """
    Raises:
        ValueError: when they differ in an option that a difference of their figures could come from.
    """
    if weights := learned_from_captions(read_options(baseline)):
        raise ValueError(
            f"{baseline} is no baseline: it learned from captions too ({weights}). Train one with the options of the "
            "run and --align_weight 0 --supervision none, or leave baseline out."
        )
    (options, data), (others, other_data) = ((_without_texts(each), _images(each)) for each in (run, baseline))
    if "drop" in (options.get("unlabelled"), others.get("unlabelled")):
        options, others = (each | dict.fromkeys(OF_UNLABELLED) for each in (options, others))
        data, other_data = (each and each | {"rows": None} for each in (data, other_data))
    if data and other_data:
        known = {name for name in data if name != "revision" or (data[name] and other_data[name])}
        data, other_data = ({name: each[name] for name in known} for each in (data, other_data))
        if data == other_data and options.get("dataset_name") != others.get("dataset_name"):
            # the same images, opened as a stage that was made of them, or as a copy
            options, others = (each | dict.fromkeys(DATA) for each in (options, others))
        options, others = options | data, others | other_data
    names = options.keys() | others.keys()
    differing = sorted(name for name in names if options.get(name) != others.get(name))
    if differing:
        shown = ", ".join(f"{name} ({others.get(name)!r}, not {options.get(name)!r})" for name in differing[:3])
        raise ValueError(
            f"{baseline} is no baseline of {run}: it was trained with another {shown}. Only what belongs to the "
            "captions may differ. Train one with the options of the run, --align_weight 0 and --supervision none, or "
            "leave baseline out."
        )


def _without_texts(run: str) -> dict[str, Any]:
    options = {
        name: value
        for name, value in _comparable(run).items()
        if not name.startswith((*OF_TEXTS, *OF_KEEPING)) and name not in OF_NEITHER
    }
    recorded = read_options(run)
    seed = recorded.get("seed", DEFAULT_SEED)
    return options | {"seed": seed, "data_seed": recorded.get("data_seed")}


def _images(run: str) -> dict[str, Any] | None:
    """Where the images of a run come from in the end, and how many there are; None where it is not known."""
    lineage = read_lineage(run)
    found = [source for source in lineage.get("sources") or [] if source.get("images")]
    if not found or not lineage.get("rows"):
        return None
    name = found[-1].get("id") or found[-1].get("name")
    return {"images": name, "revision": found[-1].get("revision"), "rows": lineage["rows"]}


def _comparable(run: str) -> dict[str, Any]:
    """Options without the seed and where the run lies; folders as they are seen from here."""
    options = {name: value for name, value in read_options(run).items() if name not in NOT_COMPARED | SEEDS}
    for name in PATHS:
        value = options.get(name)
        if isinstance(value, str) and (Path(run) / value).exists():
            options[name] = str((Path(run) / value).resolve())
    return options

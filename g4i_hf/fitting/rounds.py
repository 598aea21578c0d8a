"""The results in a folder of `g4i fit`, one for each round of corrections: a curve, and points for a tracker."""

from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from ..evaluation.metrics import read_results
from ..names import USUAL_PRECISION, WITH_VIEWS

PROJECT = "g4i_fit"  # of a tracker
SHOWN = 10  # rounds, the last ones
SHARES = ("accuracy", "low", "high", "answered_at_95")


def rounds_of(folder: Path) -> list[dict[str, Any]]:
    """
    Of each result with as many classes as the last one, which is in the folder itself. `accuracy` is that of what
    ships, `low` and `high` end its interval, and `reviewed` are the `labels` by a person. None for what is unknown.
    """
    earlier = sorted(folder.glob("earlier-*"), key=lambda place: (len(place.name), place.name))
    results = [each for place in (*earlier, folder) if "judged_on" in (each := read_results(place))]
    return [_round(each) for each in results if each["num_labels"] == results[-1]["num_labels"]]


def _round(results: dict[str, Any]) -> dict[str, Any]:
    name = results["released"] or WITH_VIEWS
    low, high = results[f"{name}_interval"] or (None, None)
    usual: dict[str, Any] = next(
        (each for each in results.get("decisions", ()) if each["precision"] == USUAL_PRECISION), {}
    )
    return {
        "labels": results["labels"],
        "reviewed": results.get("reviewed"),
        "accuracy": results[f"{name}_accuracy"],
        "low": low,
        "high": high,
        "answered_at_95": usual["share"] if usual.get("threshold") is not None else None,
    }


def curve_of(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """For a drawing of 500 by 200, which begins at (50, 10); empty for fewer than two rounds with an accuracy."""
    shown = [each for each in rounds if each["accuracy"] is not None][-SHOWN:]
    if len(shown) < 2:
        return {}
    floor = (
        np.floor(10 * min([0.9, *(each[name] for each in shown for name in SHARES if each[name] is not None)])) / 10
    )

    def height(share: float) -> float:
        return round(float(210 - 200 * (share - floor) / (1 - floor)), 1)

    points = [
        {"x": round(85 + 430 * number / (len(shown) - 1), 1), "of": each}
        | {name: height(each[name]) for name in SHARES if each[name] is not None}
        for number, each in enumerate(shown)
    ]
    lines = {
        name: " ".join(f"{point['x']},{point[name]}" for point in points if name in point)
        for name in ("accuracy", "answered_at_95")
    }
    rows = [(round(100 * value), height(value)) for value in np.linspace(floor, 1, 5)]
    return {"rows": rows, "points": points, "lines": lines}


def start_tracker(accelerator: Accelerator, name: str, folder: Path) -> None:
    """One run for all rounds of a folder. Raises OSError where the tracker does not start, as without a login."""
    run = {"name": folder.resolve().name, "resume": "allow"}
    try:
        accelerator.init_trackers(PROJECT, init_kwargs={"trackio": run, "wandb": run | {"id": run["name"]}})
    except Exception as error:  # trackers have no common base class of their errors
        why = " ".join(str(error).split())
        raise OSError(f"report_to is {name}, which does not start: {why} Or leave report_to out.") from error


def track(accelerator: Accelerator, folder: Path) -> None:
    """Log the last round, at the step of its number."""
    rounds = rounds_of(folder)
    accelerator.log({name: value for name, value in rounds[-1].items() if value is not None}, step=len(rounds))
    for tracker in accelerator.trackers:  # not `end_training`, which ends the group of processes too
        tracker.finish()

"""A classifier with its image processor, opened by a name, and what it predicts for a stream of images."""

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from ..data.images import TURNS, open_image, to_rgb, why_unreadable
from ..evaluation.predict import load_run
from ..modeling.processing import EvalTransform
from ..modeling.student import plain_student
from ..names import (
    ANSWER,
    ASK,
    CLASSIFIER,
    OPTIONS_FILE,
    THRESHOLDS,
    USUAL_PRECISION,
    identity_of,
    is_of_fit,
    is_path,
    loading,
    run_of,
    why_missing,
)

AHEAD = 3  # batches that threads decode before the network takes them


@dataclass
class Classifier:
    model: PreTrainedModel
    transform: EvalTransform
    identity: str  # of its files

    @property
    def classes(self) -> list[str]:
        names = self.model.config.id2label
        return [str(names[label]) for label in range(len(names))]

    def threshold(self, precision: float | None) -> dict[str, Any] | None:
        """
        What the release says of a precision, by default of 95%; None where there is no threshold and no precision is
        given. ValueError for a precision without a threshold.
        """
        known = getattr(self.model.config, THRESHOLDS, None) or {}
        if precision is None:
            return known.get(f"{USUAL_PRECISION:g}")
        if f"{precision:g}" in known:
            return known[f"{precision:g}"]
        if not known:
            raise ValueError(
                "precision needs a classifier that g4i fit has judged, and this one has no thresholds. Leave "
                "precision out, or make one with g4i fit."
            )
        raise ValueError(f"precision is {precision:g}; this classifier has thresholds for {', '.join(known)}.")

    def predict(
        self, images: Iterable[tuple[str, Any]], top: int, threshold: float | None, batch_size: int
    ) -> Iterator[dict[str, Any]]:
        """A row an image, in their order. Threads decode what the network takes next."""
        device, classes = self.model.device, self.classes
        top = min(top, len(classes))
        for batch in self._decoded(images, batch_size):
            pixels = [each for _, each in batch if isinstance(each, torch.Tensor)]
            best: Iterator[tuple[list[float], list[int]]] = iter(())
            if pixels:
                with torch.inference_mode():
                    probabilities = self.model(torch.stack(pixels).to(device)).logits.float().softmax(-1)
                    likeliest = probabilities.topk(top)
                best = zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
            for name, each in batch:
                if isinstance(each, torch.Tensor):
                    shares, labels = next(best)
                    yield _row(name, [classes[label] for label in labels], shares, threshold)
                else:
                    yield _row(name, [None] * top, [None] * top, threshold, each)

    def _decoded(self, images: Iterable[tuple[str, Any]], batch_size: int) -> Iterator[list[tuple[str, Any]]]:
        """Batches of names and pixels, or why there are none."""
        waiting: deque[tuple[str, Future]] = deque()
        images = iter(images)
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
            try:
                while True:
                    for name, stored in itertools.islice(images, AHEAD * batch_size - len(waiting)):
                        waiting.append((name, pool.submit(self._pixels, stored)))
                    if not waiting:
                        return
                    batch = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
                    yield [(name, future.result()) for name, future in batch]
            finally:
                pool.shutdown(cancel_futures=True)

    def _pixels(self, stored: Any) -> torch.Tensor | str:
        try:
            opened = open_image(stored)
            with TURNS.of(opened):
                return self.transform(to_rgb(opened))
        except Exception as error:  # Pillow's readers raise almost anything for a damaged file
            return why_unreadable(error)


def _row(
    name: str, labels: list[str | None], shares: list[float | None], threshold: float | None, reason: str = ""
) -> dict[str, Any]:
    is_sure = not reason and (threshold is None or shares[0] >= threshold)
    row = {"file_name": name, "label": labels[0], "probability": shares[0], "decision": ANSWER if is_sure else ASK}
    for place, (label, share) in enumerate(zip(labels[1:], shares[1:], strict=True), 2):
        row |= {f"label_{place}": label, f"probability_{place}": share}
    return row | {"reason": reason}


def open_classifier(name: str | Path) -> Classifier:
    """
    Of a folder of `g4i fit` what it ships; a run of `g4i train`, a release or an image classifier of the Hub. Nothing
    in its files is executed. Raises FileNotFoundError for what is not there, OSError for what is no classifier.
    """
    place = Path(name)
    if is_of_fit(place):
        place = place / CLASSIFIER
        if not place.is_dir():
            raise FileNotFoundError(f"{name} holds a g4i fit that is not finished. Run its command again.")
    if (run_of(place) / OPTIONS_FILE).is_file():
        model, processor = load_run(place)
        student = plain_student(model)
    else:
        student, processor = _of_transformers(str(place) if place.is_dir() else str(name))
    student = student.eval().to(torch.accelerator.current_accelerator() or "cpu")
    digest, commit = identity_of(str(place) if place.is_dir() else str(name), None)
    return Classifier(student, EvalTransform(processor), digest or commit or str(name))


def _of_transformers(name: str) -> tuple[PreTrainedModel, Any]:
    if not Path(name).is_dir():
        why = "no such folder" if is_path(name) or name.count("/") > 1 else why_missing(name, "model")
        if why:
            raise FileNotFoundError(f"model is {name!r}: {why}. Name a folder of g4i fit, or a classifier of the Hub.")
    elif not (Path(name) / "config.json").is_file():
        raise FileNotFoundError(
            f"model is {name!r}, which holds no classifier: no config.json. Name a folder of g4i fit."
        )
    with loading(f"The classifier {name!r}", " Name an image classifier with safetensors."):
        model, notes = AutoModelForImageClassification.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        if notes["missing_keys"]:
            missing = sorted(notes["missing_keys"])[0]
            raise ValueError(f"it was not trained to classify, as it lacks {missing}")
        return model, AutoImageProcessor.from_pretrained(name, trust_remote_code=False)

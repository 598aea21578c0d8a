"""A classifier with its image processor, opened by a name, and what it predicts for a stream of images."""

import base64
import logging
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.utils.hub import cached_file

from ..evaluation.predict import load_run
from ..modeling.none_of_these import NoneOfThese
from ..modeling.processing import EvalTransform
from ..modeling.student import classifier_layers, feature_size, plain_student
from ..names import (
    ANSWER,
    ASK,
    CLASSIFIER,
    FITTED_ON_FILE,
    NONE,
    NONE_FILE,
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
from .fitted_on import FittedOn
from .graph import CLOSE, Graph, Predicted
from .images import decoded
from .writing import DIGEST, SAMPLED

logger = logging.getLogger(__name__)

IF_THERE = {  # a file of a repository or folder, None without it
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}
BATCH, A_THREAD = 32, 2  # images of a batch; on a CPU so many a thread, whose layers then fit its cache
LAYOUT = torch.channels_last  # in which convolutions on a CPU take two thirds of the time


@dataclass
class Classifier:
    model: PreTrainedModel
    transform: EvalTransform
    identity: str  # of its files
    none_of_these: NoneOfThese | None = None
    fitted_on: FittedOn | None = None
    graph: Graph | None = None  # in place of the model

    @property
    def classes(self) -> list[str]:
        names = self.model.config.id2label
        return [str(names[label]) for label in range(len(names))]

    def usual_precision(self) -> float:
        """95%; without a threshold for that the highest one that has a threshold, if any."""
        known = getattr(self.model.config, THRESHOLDS, None) or {}
        return USUAL_PRECISION if f"{USUAL_PRECISION:g}" in known or not known else max(map(float, known))

    def threshold(self, precision: float | None) -> dict[str, Any] | None:
        """
        What the release says of a precision, by default of the usual one; None where there is no threshold and no
        precision is given. ValueError for a precision without a threshold.
        """
        known = getattr(self.model.config, THRESHOLDS, None) or {}
        if precision is None:
            return known.get(f"{self.usual_precision():g}")
        if f"{precision:g}" in known:
            return known[f"{precision:g}"]
        if not known:
            raise ValueError(
                f"precision is {precision:g}, but this classifier has no thresholds: g4i fit leaves them where enough "
                "images judge it. Leave precision out."
            )
        raise ValueError(f"precision is {precision:g}; this classifier has thresholds for {', '.join(known)}.")

    def predict(
        self,
        images: Iterable[tuple[str, Any]],
        top: int,
        threshold: float | None,
        batch_size: int | None,
        sampled: Container[int] = (),
    ) -> Iterator[dict[str, Any]]:
        """
        A row an image, in their order, with its `digest`. Those of `sampled` places have numbers for
        [`~g4i_hf.inference.another_month.NewImages`] too. Threads decode what the network takes next.
        """
        device, classes = self.model.device, self.classes
        top = min(top, len(classes))
        batch_size = batch_size or (A_THREAD * torch.get_num_threads() if device.type == "cpu" else BATCH)
        done = 0
        for batch in decoded(images, self.transform, batch_size):
            pixels = [each for _, (each, _) in batch if isinstance(each, torch.Tensor)]
            best: Iterator[tuple[list[float], list[int], bool, np.ndarray | None]] = iter(())
            if pixels:
                predicted = self._predicted(torch.stack(pixels).to(device, memory_format=LAYOUT))
                likeliest, numbers = predicted.probabilities.topk(top), [None] * len(pixels)
                if self.fitted_on is not None:
                    numbers = np.concatenate(
                        [self.fitted_on.of(predicted.features), predicted.probabilities.cpu()], axis=1
                    )
                best = zip(
                    likeliest.values.tolist(), likeliest.indices.tolist(), predicted.is_none, numbers, strict=True
                )
            for place, (name, (each, digest)) in enumerate(batch, done):
                more = {}
                if isinstance(each, torch.Tensor):
                    shares, labels, is_none, compared = next(best)
                    if place in sampled and compared is not None:
                        more = {SAMPLED: base64.b64encode(compared.tobytes()).decode()}
                    decision = NONE if is_none else ANSWER if threshold is None or shares[0] >= threshold else ASK
                    row = _row(name, [classes[label] for label in labels], shares, decision)
                else:
                    row = _row(name, [None] * top, [None] * top, ASK, each)
                yield row | {DIGEST: digest} | more
            done += len(batch)

    def columns(self, top: int) -> list[str]:
        """Of the rows of `predict`, without what is for later starts."""
        nothing: list[Any] = [None] * min(top, len(self.classes))
        return [*_row("", nothing, nothing, ASK)]

    @torch.inference_mode()
    def _predicted(self, pixels: torch.Tensor) -> Predicted:
        if self.graph is None:
            return self._by_network(pixels)
        if self.graph.is_checked:
            return self.graph(pixels)
        by_network, by_graph = self._by_network(pixels), self.graph(pixels)
        distance = (by_graph.probabilities - by_network.probabilities).abs().max()
        self.graph.is_checked = bool(distance <= CLOSE) and by_network.is_none == by_graph.is_none
        if not self.graph.is_checked:
            message = "%s predicts otherwise than the weights beside it, so it is left out. Release both again."
            logger.warning(message, self.graph.file)
            self.graph = None
        return by_network

    def _by_network(self, pixels: torch.Tensor) -> Predicted:
        if self.none_of_these is None and self.fitted_on is None:  # the last layer of some models is not found
            return Predicted(self.model(pixels).logits.float().softmax(-1), [False] * len(pixels), None)
        features: list[torch.Tensor] = []
        last = classifier_layers(self.model)[0]
        with last.register_forward_pre_hook(lambda _, given: features.append(given[0])):
            probabilities = self.model(pixels).logits.float().softmax(-1)
        is_none = [False] * len(pixels) if self.none_of_these is None else self.none_of_these.finds(features[0])
        return Predicted(probabilities, is_none, features[0])


def _row(
    name: str, labels: list[str | None], shares: list[float | None], decision: str, reason: str = ""
) -> dict[str, Any]:
    row = {"file_name": name, "label": labels[0], "probability": shares[0], "decision": decision}
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
    # A build for CUDA names that as the current accelerator also without a GPU
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    student = student.eval().to(device, memory_format=LAYOUT)
    source = str(place) if place.is_dir() else str(name)
    digest, commit = identity_of(source, None)
    of_run = str(run_of(source)) if place.is_dir() else source
    score, numbers = (cached_file(of_run, file, **IF_THERE) for file in (NONE_FILE, FITTED_ON_FILE))
    none_of_these = NoneOfThese.load(score, feature_size(student)) if score else None
    fitted_on = FittedOn.load(numbers, student) if numbers else None
    identity = digest or commit or str(name)
    classifier = Classifier(student, EvalTransform(processor), identity, none_of_these, fitted_on)
    if place.is_dir() and student.device.type == "cpu":
        classifier.graph = Graph.of(place, processor, classifier.classes, none_of_these is not None)
    return classifier


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
            name, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        if notes["missing_keys"]:
            missing = sorted(notes["missing_keys"])[0]
            raise ValueError(f"it was not trained to classify, as it lacks {missing}")
        return model, AutoImageProcessor.from_pretrained(name, trust_remote_code=False)

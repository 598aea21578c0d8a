"""What evaluation gathers, and where it keeps it: in files, so that memory does not grow with the split."""

import tracemalloc

import numpy as np
import torch
from accelerate import Accelerator
from test_evaluation_corruptions import Answer, images
from transformers import EvalPrediction

from g4i_hf.evaluation.calibration import calibration_metrics
from g4i_hf.evaluation.outputs import OutputFile
from g4i_hf.evaluation.predict import Predictions, for_prediction, run_batches
from g4i_hf.training.build import accuracy_of_logits, predicted_classes


class Counting:
    """An accelerator that notes what is gathered; as the main process, or as another one."""

    def __init__(self, is_main_process: bool = True):
        self.inner, self.is_main_process, self.gathered = Accelerator(cpu=True), is_main_process, []

    def prepare(self, loader):
        return loader

    def gather_for_metrics(self, values):
        self.gathered.append({name: (tuple(value.shape), value.dtype) for name, value in values.items()})
        return self.inner.gather_for_metrics(values)


def outputs_of(accelerator: Counting, names: tuple[str, ...]):
    split = for_prediction(images(6), lambda image: torch.full((3, 2, 2), float(image.getpixel((0, 0))[0] > 127)))
    return run_batches(lambda pixels, **wanted: Answer(pixels - 0.5), split, accelerator, 4, 0, "", names)


def test_of_predictions_one_number_an_image_is_gathered():
    accelerator = Counting()
    found = outputs_of(accelerator, ("predicted",))
    assert accelerator.gathered == [{"predicted": ((4,), torch.int64)}, {"predicted": ((2,), torch.int64)}]
    assert set(found) == {"predicted"} and found["predicted"].shape == (6,)


def test_only_the_main_process_keeps_outputs_and_in_a_file():
    assert isinstance(outputs_of(Counting(), ("predicted",))["predicted"], np.memmap)
    assert outputs_of(Counting(is_main_process=False), ("predicted",)) is None


def test_memory_does_not_grow_with_the_split():
    """With ten times the rows, what predictions, scores and calibration allocate grows by some numbers a row alone."""
    rng, peaks = np.random.default_rng(0), []
    for rows in (4000, 40_000):
        file = OutputFile()
        for _ in range(rows // 1000):
            file.append(rng.standard_normal((1000, 100)).astype(np.float32))
        tracemalloc.start()
        labels = np.zeros(rows, dtype=np.int64)
        predictions = Predictions([], labels, file.mapped(), None)
        assert len(predictions.predicted) == len(predictions.score) == rows
        calibration_metrics(predictions.logits, labels)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    numbers_a_row = (peaks[1] - peaks[0]) / 36_000 / 8
    assert numbers_a_row < 25  # and of its 100 logits none


def test_calibration_in_blocks_is_that_of_the_whole():
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((3000, 7)).astype(np.float32) * 3, rng.integers(0, 7, 3000)
    probabilities = torch.from_numpy(logits).double().softmax(1).numpy()
    found = calibration_metrics(logits, labels)
    right = probabilities[np.arange(3000), labels]
    assert np.isclose(found["nll"], -np.log(right).mean())
    assert np.isclose(found["brier"], ((probabilities - np.eye(7)[labels]) ** 2).sum(1).mean())
    bins = np.ceil(probabilities.max(1) * 15)
    surplus = (probabilities.argmax(1) == labels) - probabilities.max(1)
    assert np.isclose(found["ece"], sum(abs(surplus[bins == number].sum()) for number in range(16)) / 3000)


def test_trainer_keeps_classes_rather_than_logits():
    logits, labels = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]), np.array([1, 1, -100])
    classes = predicted_classes(logits, None)
    assert classes.tolist() == [1, 0, 1]
    for predictions in (logits.numpy(), classes.numpy()):
        assert accuracy_of_logits(EvalPrediction(predictions, labels)) == {"accuracy": 0.5}
        assert accuracy_of_logits(EvalPrediction(predictions, np.full_like(labels, -100))) == {}

"""What is measured on a split: the names of the figures in `all_results.json`, and how tables show them."""

from dataclasses import dataclass

CORRUPTIONS = ("blur", "noise", "contrast", "jpeg")
STRENGTHS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Measure:
    """
    Args:
        title: in tables.
        group: heading that it stands under; the first measures have none.
        chance: figure of the same split that says what guessing would give.
        is_share: shown in percent; else as the number that it is.
        lower_is_better: of errors.
    """

    title: str
    group: str = ""
    chance: str | None = None
    is_share: bool = True
    lower_is_better: bool = False


ZERO_SHOT = "Zero-shot accuracy: the nearest class text, without the classifier"
CALIBRATION = "Calibration of the classifier"
PROBE = "Accuracy of probes on the feature, fitted on the training split"
ROBUSTNESS = "Accuracy on corrupted images, mean of five strengths"

ALL_MEASURES = {
    "accuracy": Measure("accuracy"),
    "recall_at_1": Measure("caption retrieval R@1", chance="chance_at_1"),
    "recall_at_5": Measure("caption retrieval R@5", chance="chance_at_5"),
    "text_to_image_recall_at_1": Measure("image retrieval R@1", chance="text_to_image_chance_at_1"),
    "text_to_image_recall_at_5": Measure("image retrieval R@5", chance="text_to_image_chance_at_5"),
    "zero_shot_captions_accuracy": Measure("classes by captions", ZERO_SHOT, "zero_shot_captions_chance"),
    "zero_shot_names_accuracy": Measure("classes by names", ZERO_SHOT, "zero_shot_names_chance"),
    "ece": Measure("ECE", CALIBRATION, lower_is_better=True),
    "adaptive_ece": Measure("adaptive ECE", CALIBRATION, lower_is_better=True),
    "nll": Measure("NLL, nats", CALIBRATION, is_share=False, lower_is_better=True),
    "brier": Measure("Brier score", CALIBRATION, is_share=False, lower_is_better=True),
    "knn_1_accuracy": Measure("1-NN", PROBE),
    "knn_20_accuracy": Measure("20-NN", PROBE),
    "linear_probe_accuracy": Measure("linear probe", PROBE),
    **{f"{kind}_accuracy": Measure("JPEG" if kind == "jpeg" else kind, ROBUSTNESS) for kind in CORRUPTIONS},
    "corrupted_accuracy": Measure("mean", ROBUSTNESS),
}
# Of the projector: where it was not trained, they say nothing
OF_PROJECTOR = tuple(name for name in ALL_MEASURES if "recall_at" in name or name.startswith("zero_shot"))
ENGINES = {"pytorch": "PyTorch, float32", "onnx": "ONNX Runtime, float32", "int8": "ONNX Runtime, int8"}
TIMED = ("latency_ms", "images_per_second", "megabytes")
SPEED = ("parameters", "macs", "cpu_threads", *(f"{engine}_{figure}" for engine in ENGINES for figure in TIMED))
# All of a split, with what no table shows
FIGURES = (
    *ALL_MEASURES,
    *(measure.chance for measure in ALL_MEASURES.values() if measure.chance),
    *("samples", "bad_images", "weights", "gallery_size", "text_to_image_gallery_size"),
    *("probe_samples", "linear_probe_c", "int8_accuracy", "suspicious_labels"),
    *(f"{kind}_{strength}_accuracy" for kind in CORRUPTIONS for strength in STRENGTHS),
)

"""Better image classifiers from captions: GPT4Image for the Hugging Face ecosystem."""

from importlib import import_module

__version__ = "0.3.0"

# Modules of the public names, imported on first use, as torch takes seconds
_PLACES = {
    "AlignedImageClassification": "modeling",
    "AlignedImageClassificationConfig": "modeling",
    "AlignmentArguments": "training",
    "AlignmentTrainer": "training",
    "LabelModel": "label_model",
    "ImageSearch": "zero_shot",
    "View": "label_model",
    "ZeroShotImageClassifier": "zero_shot",
    "caption_images": "workflows.caption",
    "embed_captions": "embedding.embed",
    "embed_view": "views.making",
    "evaluate_run": "workflows.evaluate",
    "fit": "fitting.command",
    "load_images": "data.loading",
    "register_objective": "losses",
    "release_student": "hub",
}
__all__ = [*_PLACES, "__version__"]


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PLACES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__

"""Better image classifiers from captions: GPT4Image for the Hugging Face ecosystem."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.4.0"

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
    "predict": "inference.command",
    "register_objective": "losses",
    "release_student": "hub",
}
__all__ = [*_PLACES, "__version__"]

if TYPE_CHECKING:
    from .data.loading import load_images as load_images
    from .embedding.embed import embed_captions as embed_captions
    from .fitting.command import fit as fit
    from .hub import release_student as release_student
    from .inference.command import predict as predict
    from .label_model import LabelModel as LabelModel
    from .label_model import View as View
    from .losses import register_objective as register_objective
    from .modeling import AlignedImageClassification as AlignedImageClassification
    from .modeling import AlignedImageClassificationConfig as AlignedImageClassificationConfig
    from .training import AlignmentArguments as AlignmentArguments
    from .training import AlignmentTrainer as AlignmentTrainer
    from .views.making import embed_view as embed_view
    from .workflows.caption import caption_images as caption_images
    from .workflows.evaluate import evaluate_run as evaluate_run
    from .zero_shot import ImageSearch as ImageSearch
    from .zero_shot import ZeroShotImageClassifier as ZeroShotImageClassifier
else:  # to a type checker, this would have any name

    def __getattr__(name: str):
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_PLACES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__

"""Better image classifiers from captions: GPT4Image for the Hugging Face ecosystem."""

from .modeling import AlignedImageClassification, AlignedImageClassificationConfig

__version__ = "0.1.0"
__all__ = ["AlignedImageClassification", "AlignedImageClassificationConfig", "__version__"]

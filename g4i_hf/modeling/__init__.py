"""The aligned model: student, projector, configuration."""

from .configuration_aligned import AlignedImageClassificationConfig
from .modeling_aligned import AlignedImageClassification, AlignedImageClassifierOutput

__all__ = ["AlignedImageClassification", "AlignedImageClassificationConfig", "AlignedImageClassifierOutput"]

"""The label model: class probabilities from any number of views, and what they are used for."""

from .model import LabelModel
from .views import View

__all__ = ["LabelModel", "View"]

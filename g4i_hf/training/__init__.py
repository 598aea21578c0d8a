"""Training with an alignment term: arguments, Trainer, EMA."""

from .arguments import AlignmentArguments
from .trainer import AlignmentTrainer

__all__ = ["AlignmentArguments", "AlignmentTrainer"]

"""Training with an alignment term: arguments, Trainer, EMA."""

from .arguments import AlignmentArguments, RunArguments, StudentArguments
from .trainer import AlignmentTrainer

__all__ = ["AlignmentArguments", "AlignmentTrainer", "RunArguments", "StudentArguments"]

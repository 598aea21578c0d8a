"""From a run to what is published: plain students and their cards."""

from .card import student_card
from .release import release_student, save_student

__all__ = ["release_student", "save_student", "student_card"]

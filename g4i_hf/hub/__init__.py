"""Release of runs and datasets: plain students, and their cards."""

from .card import Student, student_card
from .release import StudentPublisher, release_student, save_student

__all__ = ["Student", "StudentPublisher", "release_student", "save_student", "student_card"]

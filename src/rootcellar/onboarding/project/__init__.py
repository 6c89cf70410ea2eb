"""A small project for a broker and a result backend: ``write(folder, setup)`` is ``rootcellar init`` in Python."""

from rootcellar.onboarding.project.writing import Written, render, write

__all__ = ["Written", "render", "write"]

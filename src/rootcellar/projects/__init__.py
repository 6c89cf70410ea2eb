"""A small project for a broker and a result backend: ``write(folder, setup)`` is ``rootcellar init`` in Python."""

from rootcellar.projects.writing import Written, render, write

__all__ = ["Written", "render", "write"]

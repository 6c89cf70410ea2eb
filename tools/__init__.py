"""Writes parts of the documentation from the code. Not part of the wheel."""

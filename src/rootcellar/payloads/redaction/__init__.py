"""Replaces secrets before a value is stored."""

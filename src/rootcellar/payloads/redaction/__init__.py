"""Secrets are replaced before a value is stored."""

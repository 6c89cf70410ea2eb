"""Moves results from one store to another: copies and verifies them."""

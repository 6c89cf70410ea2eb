"""Makes text from outside safe to print."""

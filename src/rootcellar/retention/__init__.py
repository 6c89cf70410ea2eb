"""How long a result is kept."""

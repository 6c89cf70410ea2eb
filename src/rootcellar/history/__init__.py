"""Questions about stored results: which tasks ran, how long they took, and why they failed."""

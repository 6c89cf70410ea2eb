"""Work that a process does in the background."""

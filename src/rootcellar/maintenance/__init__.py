"""The services that a process runs in the background."""

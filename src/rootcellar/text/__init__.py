"""Text that others wrote, made safe to print."""

"""Waits for results: in threads, greenlets and on asyncio."""

"""Waiting for results: in threads, greenlets and on asyncio."""

"""Small modules that all upper layers use: for threads, forks, interruptions and outages."""

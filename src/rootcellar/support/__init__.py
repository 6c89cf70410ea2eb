"""Small parts that every layer uses: threads, forks, interruptions, outages."""

"""Old results in files, where they stay readable."""

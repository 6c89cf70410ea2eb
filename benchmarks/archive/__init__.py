"""What archiving costs, and how large its files are."""

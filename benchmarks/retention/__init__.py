"""What keeping, deleting and protecting results costs."""

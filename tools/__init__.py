"""What writes parts of the documentation from the code. None of it is in the wheel."""

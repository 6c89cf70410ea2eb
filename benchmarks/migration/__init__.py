"""What moving results from one store to another costs."""

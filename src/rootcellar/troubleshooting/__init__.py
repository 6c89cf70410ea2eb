"""What ``rootcellar explain`` prints: an entry for each error, problem and symptom."""

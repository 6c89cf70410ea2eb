"""What `rootcellar maintain` looks at and does: one part for each subject, all of one shape (:mod:`part`)."""

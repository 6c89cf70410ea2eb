"""Damages one row or header in ten, and checks that the other nine are unaffected: ``python -m tests.damage``.

A *round* is one damaged row or header among nine good ones. Many rounds run together: some hundred tasks are stored
once, one in ten of their rows is damaged in the server itself, every reader reads all of them, and the rows are
restored. It fails if a reader gets a wrong record, or none, for a good task; or an error that is not rootcellar's, or
that does not name its task.
"""

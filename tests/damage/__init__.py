"""Damages one row or header in ten, and looks whether the other nine are unharmed: ``python -m tests.damage``.

A *round* is one damaged row or header among nine good ones. Many rounds are looked at together: some hundred tasks are
stored once, one in ten of their rows is damaged past rootcellar, every reader reads all of them, and the rows are put
back. What must not happen: a reader that gets a good task as something else, or does not get it; an error that is none
of rootcellar's, or that does not name its task.
"""

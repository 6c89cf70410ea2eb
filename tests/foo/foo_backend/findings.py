"""Problems with Foo."""

from __future__ import annotations

from rootcellar.checks.register.entry import warning

TITLE = "Foo"
PROBLEMS = (
    warning("foo-made-up", "Foo is made up", why="No team has a server of Foo.", remedy="Choose another database."),
)

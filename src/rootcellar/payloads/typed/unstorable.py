"""The error for a value that typed JSON cannot represent."""

from __future__ import annotations


class Unstorable(TypeError):
    """A value cannot be stored. The error has the path to it.

    Args:
        what: what is wrong, as the end of a sentence that begins with the path.
        remedy: what to do.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = what
        self.remedy = remedy
        self._steps: list[str] = []
        super().__init__(what)

    def within(self, step: str) -> None:
        """Add the step from the outer value to this one, such as ``["orders"]``, to the path."""
        self._steps.append(step)

    @property
    def path(self) -> str:
        """The path to the value, such as ``result["orders"][3].customer``."""
        return "".join(reversed(self._steps))

    def __str__(self) -> str:
        return f"{self.path} {self.what}".strip()

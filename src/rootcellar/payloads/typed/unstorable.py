"""The error of a value that typed JSON cannot hold."""

from __future__ import annotations


class Unstorable(TypeError):
    """A value cannot be stored; knows where in the whole it lies.

    Args:
        what: what is wrong with it, as the end of a sentence that begins with its path.
        remedy: what to do.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what = what
        self.remedy = remedy
        self._steps: list[str] = []
        super().__init__(what)

    def within(self, step: str) -> None:
        """Note the step that leads to the value from what holds it, such as ``["orders"]``."""
        self._steps.append(step)

    @property
    def path(self) -> str:
        """The way to the value, such as ``result["orders"][3].customer``."""
        return "".join(reversed(self._steps))

    def __str__(self) -> str:
        return f"{self.path} {self.what}".strip()

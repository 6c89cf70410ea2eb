"""What is wrong with the text of a filter."""

from __future__ import annotations

from rootcellar.errors import RootcellarError
from rootcellar.text.escaping import visible

#: characters of the text that are shown on each side of the place
_CONTEXT = 30


class FilterWrong(RootcellarError):
    """The text of a filter cannot be understood.

    Args:
        what: what is wrong.
        text: the whole filter.
        position: where, counted from 0.
        remedy: what to write.

    Attributes:
        position: where, counted from 0.
    """

    def __init__(self, what: str, text: str, position: int, remedy: str) -> None:
        super().__init__(what, where=f"at character {position + 1}: {_excerpt(text, position)}", remedy=remedy)
        self.text = text
        self.position = position

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.what, self.text, self.position, self.remedy))


def _excerpt(text: str, position: int) -> str:
    """Return the text around a position, with a mark before it."""
    before = visible(text[max(0, position - _CONTEXT) : position])
    after = visible(text[position : position + _CONTEXT])
    start = "…" if position > _CONTEXT else ""
    end = "…" if len(text) > position + _CONTEXT else ""
    return f"{start}{before}»{after}{end}"

"""Asks questions on a terminal. A number, a word or Enter chooses an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import typer

from rootcellar.onboarding.recommend import QUESTIONS, Needs, Question
from rootcellar.onboarding.recommend.needs import MEANINGS

_FACTORS = {"k": 1_000, "m": 1_000_000}


def ask_needs() -> Needs:
    """Ask the questions of :mod:`rootcellar.onboarding.recommend`, and return the answers."""
    typer.echo("Please answer a few questions. Enter takes the answer in [brackets]; Ctrl-C stops.")
    return Needs(**{question.field: _ask(question) for question in QUESTIONS})


def _ask(question: Question) -> Any:
    typer.echo(f"\n{question.text}")
    answers: list[Enum] = list(question.answers or ())
    for number, answer in enumerate(answers, 1):
        typer.echo(f"  {number}  {answer.value:12} {MEANINGS[answer.value]}")
    if not answers:
        return _asked(question.default, count_of)
    if question.is_several:
        return _asked(question.default, lambda text: _several(text, answers))
    return _asked(question.default, lambda text: _one(text, answers))


def _asked(default: str, read: Callable[[str], Any]) -> Any:
    """Read lines until ``read`` accepts one, and return what it returned."""
    while True:
        try:
            text = input(f"  [{default or 'none'}] > ").strip()
        except EOFError:
            raise typer.Abort from None
        try:
            return read(text or default)
        except ValueError as exc:
            typer.echo(f"  {exc}")


def count_of(text: str) -> int:
    """Return ``10000``, ``10,000``, ``10k`` or ``2m`` as a number.

    Raises:
        ValueError: ``text`` is not a number.
    """
    words = text.lower().replace(",", "").replace("_", "")
    factor = _FACTORS.get(words[-1:], 1)
    try:
        found = round(float(words[:-1] if factor > 1 else words) * factor)
    except (ValueError, OverflowError):
        found = -1
    if found < 0:
        raise ValueError("It must be a number, such as 500, 10k or 2m.")
    return found


def _one(text: str, answers: Sequence[Enum]) -> Enum:
    for number, answer in enumerate(answers, 1):
        if text.strip().lower() in (str(number), answer.value):
            return answer
    raise ValueError(f"It must be a number from 1 to {len(answers)}, or the word beside it.")


def _several(text: str, answers: Sequence[Enum]) -> frozenset[Enum]:
    return frozenset(_one(word, answers) for word in text.split(",") if word.strip())

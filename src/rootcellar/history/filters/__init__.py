"""The filter language: ``parse`` makes a tree of a text; ``Matcher`` and ``sentence`` read the tree."""

from rootcellar.history.filters.errors import FilterWrong
from rootcellar.history.filters.moments import Clock
from rootcellar.history.filters.parser import parse
from rootcellar.history.filters.predicate import Matcher
from rootcellar.history.filters.sentence import sentence
from rootcellar.history.filters.tree import Filter

__all__ = ["Clock", "Filter", "FilterWrong", "Matcher", "parse", "sentence"]

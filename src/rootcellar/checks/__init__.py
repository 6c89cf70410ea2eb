"""What a careful engineer would look at before trusting a server with results: ``rootcellar check``.

One file a system, all of one shape: a list of steps, each of which looks at one thing and says what it found. What is
wrong has a name, and the register says for each name why it matters and what to change.
"""

from __future__ import annotations

from rootcellar.checks.findings import Finding, Level, Problem
from rootcellar.checks.register import GROUPS, all_problems, problem

__all__ = ["GROUPS", "Finding", "Level", "Problem", "all_problems", "problem"]

"""``rootcellar check``: what a careful engineer checks before trusting a server with results.

There is one file for each system. All have the same shape: a list of steps, each of which checks one thing and yields
findings. Each problem has a name. The register explains for each name why it matters and what to change.
"""

from __future__ import annotations

from rootcellar.checks.findings import Finding, Level, Problem
from rootcellar.checks.register import GROUPS, all_problems, registered_problem

__all__ = ["GROUPS", "Finding", "Level", "Problem", "all_problems", "registered_problem"]

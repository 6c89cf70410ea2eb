"""One seed for everything that the tests leave to chance: a failed test prints it, and TESTS_SEED sets it."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

VARIABLE = "TESTS_SEED"
#: the seed of this run; the processes that the run starts inherit it, so the name must not be like one of ours
SEED = int(os.environ.setdefault(VARIABLE, str(secrets.randbits(32))))


def new_random(name: str) -> random.Random:
    """Return the random numbers of a test, which are the same in each run with the same seed."""
    return random.Random(f"{SEED} {name}")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give Hypothesis the seed, unless its own option sets one."""
    if getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(SEED)


def pytest_report_header() -> str:
    return f"{VARIABLE}={SEED}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    """Add the seed to the report of a failed test."""
    report = yield
    if report.failed:
        report.sections.append(("seed", f"{VARIABLE}={SEED}"))
    return report

"""The checks of Foo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rootcellar.checks.findings import Finding
from rootcellar.checks.other import OtherChecks
from rootcellar.checks.steps import Step, problem


class FooChecks(OtherChecks):
    """What every store must do, and that Foo is made up."""

    @property
    def where(self) -> str:
        return "Foo"

    def steps(self) -> Sequence[Step]:
        return [Step("being", self._being), *super().steps()]

    def _being(self) -> Iterator[Finding]:
        yield problem("foo-made-up", "there is no Foo")


checks = FooChecks

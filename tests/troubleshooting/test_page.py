"""docs/troubleshooting.md is generated from the code, and has an entry for every printed name."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module

import pytest

import rootcellar
from rootcellar import errors
from rootcellar.checks.register import all_problems
from rootcellar.errors import WITHOUT_ENTRY, RootcellarError, code_of
from rootcellar.onboarding.project import write
from rootcellar.onboarding.recommend import Setup
from rootcellar.stores import open_store
from rootcellar.troubleshooting.catalogue import entries
from tests.commands import run_here
from tests.messages import UNKNOWN, all_messages, error_docs
from tests.workers import ROOT
from tools.troubleshooting.page import page

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
ANCHORS = set(re.findall(r'<a id="([^"]+)"></a>', PAGE))


@pytest.fixture(autouse=True, scope="module")
def all_is_imported() -> None:
    """Import all modules, because errors are also defined in modules that are imported late."""
    for module in pkgutil.walk_packages(rootcellar.__path__, "rootcellar."):
        if not module.name.endswith("__main__"):
            import_module(module.name)


def every_error() -> Iterator[type[RootcellarError]]:
    def below(cls: type[RootcellarError]) -> Iterator[type[RootcellarError]]:
        for child in cls.__subclasses__():
            if child.__module__.startswith("rootcellar"):
                yield child
                yield from below(child)

    yield RootcellarError
    yield from below(RootcellarError)


def test_page_is_up_to_date() -> None:
    assert page() == PAGE, "run: make troubleshooting"


def test_every_error_and_every_finding_has_an_entry() -> None:
    assert {code_of(cls) for cls in every_error()} - WITHOUT_ENTRY <= ANCHORS
    assert {problem.code for problem in all_problems()} <= ANCHORS
    assert len(ANCHORS) == len(re.findall("<a id=", PAGE)), "two entries have one name"


def test_every_link_has_a_target() -> None:
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= {*ANCHORS, "by-symptom"}
    for name in re.findall(r"\]\(([\w-]+\.md)", PAGE):
        assert (ROOT / "docs" / name).exists()


def test_entries_and_error_classes_agree() -> None:
    public = {cls for cls in every_error() if not cls.__name__.startswith("_")}
    explained = {entry.error for entry in entries().values() if entry.error}
    assert explained == {cls.__name__ for cls in public if code_of(cls) not in WITHOUT_ENTRY}
    docs = error_docs()
    for cls in public:
        assert docs[cls.__name__][1] is cls.retryable, cls
        if code_of(cls) not in WITHOUT_ENTRY:
            assert entries()[code_of(cls)].retryable is cls.retryable, cls


def test_errors_and_findings_have_names_of_one_form() -> None:
    for name in entries():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name), name


def test_entries_say_more_than_the_messages() -> None:
    remedies = {message.remedy.lower().strip(".") for message in all_messages()}
    for name, entry in entries().items():
        for why, remedy in entry.causes:
            assert why.endswith("."), name
            assert remedy.endswith("."), name
            if entry.error:
                assert remedy.lower().strip(".") not in remedies, name


@pytest.mark.parametrize(
    ("words", "title"),
    [
        ("password authentication failed", "authentication"),
        ("too many clients already", "an exhausted pool"),
        ("QueuePool limit", "an exhausted pool"),
        ("get() takes long", "slow reads"),
        ("MySQL server has gone away", "stale connections"),
        ("is PENDING for ever", "a task stays PENDING"),
        ("is not JSON serializable", "serialization errors"),
        ("PicklingError", "serialization errors"),
        ("the table grows without end", "expired results"),
    ],
)
def test_usual_problem_is_found_by_its_symptom(words: str, title: str) -> None:
    symptoms = PAGE.partition("## Errors")[0]
    (section,) = [part for part in symptoms.split("\n### ")[1:] if words in part]
    assert section.partition("\n")[0].endswith(title)
    assert "| why | what to do |" in section
    assert "See also: [" in section


def raised() -> Iterator[RootcellarError]:
    """Real errors, of different kinds."""
    for act in (
        lambda: open_store("nosuch://here"),
        lambda: open_store("sqlite://"),
        lambda: open_store("postgresql://user@host@host/db"),
        lambda: open_store("redis://:secret@host/0?password=x"),
        lambda: open_store("mysql://host/?charset=latin1"),
        lambda: open_store("hybrid://"),
        lambda: open_store("sqlite:////nosuch/folder/file").check(),
        lambda: open_store("redis://127.0.0.1:1/0").check(),
        lambda: Setup(backend="rpc"),
        lambda: write(ROOT, Setup()),
    ):
        with pytest.raises(RootcellarError) as info:
            act()  # type: ignore[no-untyped-call]
        yield info.value


def test_printed_message_ends_in_the_name_of_its_entry() -> None:
    for error in raised():
        if error.code in WITHOUT_ENTRY:
            assert "rootcellar explain" not in str(error)
        else:
            assert str(error).endswith(f" (see `rootcellar explain {error.code}`)")
        # the compared messages are the printed ones
        mine = [message for message in all_messages() if message.error == type(error).__name__]
        fitting = [message for message in mine if fits(error.what, message.what) and fits(error.remedy, message.remedy)]
        assert fitting, f"{type(error).__name__}: {error}"


def fits(text: str, pattern: str) -> bool:
    """Return whether a text has the words of a pattern, in which `…` stands for any text."""
    alternatives = "|".join(".*".join(map(re.escape, part.split(UNKNOWN))) for part in pattern.split(" / "))
    return not pattern or re.search(alternatives, text) is not None


def test_command_names_the_entry() -> None:
    assert "(see `rootcellar explain unknown-scheme`)" in run_here("history", "-b", "nosuch://here").err
    ended = run_here("settings", "--env-file", "/nosuch", "--json")
    assert json.loads(ended.out)["see"] == "rootcellar explain settings-wrong"
    ended = run_here("check", "redis://127.0.0.1:1/0", "--json")
    assert json.loads(ended.out)["first"]["see"] == "rootcellar explain tcp-refused"


def test_entry_name_is_made_from_the_class() -> None:
    names = {"StoreUnavailable": "store-unavailable", "RPCError": "rpc-error", "DiskFull": "disk-full"}
    assert {name: errors.kebab(name) for name in names} == names

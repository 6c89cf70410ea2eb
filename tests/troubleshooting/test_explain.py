"""``rootcellar explain``: every printed name has an entry, also without the repository."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from rootcellar import errors
from rootcellar.checks.register import all_problems
from rootcellar.errors import StoreError
from rootcellar.troubleshooting.catalogue import entries
from tests.commands import run, run_here, run_on_terminal


def printed_command(text: str) -> list[str]:
    """Return the words of the command at the end of a message, after `rootcellar`."""
    match = re.search(r"\(see `rootcellar ([^`]+)`\)$", text.strip())
    assert match, text
    return match[1].split()


def test_command_at_the_end_of_an_error_prints_its_entry() -> None:
    failed = run_here("history", "-b", "nosuch://here")
    ended = run_here(*printed_command(failed.err))
    assert ended.status == 0
    assert ended.out.startswith("unknown-scheme (error UnknownScheme)\n")
    assert "db+postgresql:// is rootcellar+postgresql:// here" in ended.out


def test_command_at_the_end_of_check_prints_its_entry() -> None:
    ended = run_here("check", "redis://127.0.0.1:1/0")
    found = run_here(*printed_command(ended.out))
    assert found.status == 0
    assert found.out.startswith("tcp-refused (failure of `rootcellar check`)\n")


def test_entry_has_reason_remedy_and_whether_it_is_retryable() -> None:
    out = run_here("explain", "store-unavailable").out
    assert re.search(r"^why: +\S", out, re.MULTILINE)
    assert re.search(r"^do: +\S", out, re.MULTILINE)
    assert "The problem may end by itself" in out


def test_entry_is_printed_as_json() -> None:
    found = json.loads(run_here("explain", "key-missing", "--json").out)
    assert (found["name"], found["error"], found["level"], found["retryable"]) == (
        "key-missing",
        "KeyMissing",
        None,
        False,
    )
    assert found["causes"][0]["why"]
    assert found["causes"][0]["remedy"]


@pytest.mark.parametrize("name", ["KeyMissing", "key_missing", "KEY-MISSING", "key.missing", " key-missing "])
def test_name_is_accepted_in_every_form(name: str) -> None:
    assert run_here("explain", name).out.startswith("key-missing ")


def test_every_name_has_an_entry_that_prints() -> None:
    names = {problem.code for problem in all_problems()}
    names |= {each.code for each in vars(errors).values() if isinstance(each, StoreError)}
    assert names <= set(entries())
    for name in ("symptom-missing", "authentication-failed", "redis-eviction", "result-not-stored"):
        assert run_here("explain", name).status == 0


def test_explain_without_a_name_lists_all_names() -> None:
    ended = run_here("explain")
    assert ended.status == 0
    for name, entry in entries().items():
        assert re.search(rf"^  {name} +{re.escape(entry.title)}$", ended.out, re.MULTILINE), name
    assert [each["name"] for each in json.loads(run_here("explain", "--json").out)] == list(entries())


@pytest.mark.parametrize(
    ("name", "meant"),
    [("store-unavailble", "store-unavailable"), ("eviction", "redis-eviction"), ("tls", "tls-wrong-ca")],
)
def test_unknown_name_gets_a_suggestion(name: str, meant: str) -> None:
    ended = run_here("explain", name)
    assert (ended.status, ended.out) == (2, "")
    assert meant in ended.err


def test_unknown_name_without_a_match_lists_where_names_are() -> None:
    ended = run_here("explain", "zzz\x1b[31m")
    assert (ended.status, ended.out) == (2, "")
    assert "`rootcellar explain` lists all names" in ended.err
    assert "\x1b" not in ended.err


def test_entry_fits_the_terminal() -> None:
    shown = run_on_terminal("explain", "symptom-missing", columns=60).out
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert max(map(len, plain.splitlines())) <= 60


def test_titles_of_the_list_are_wrapped_in_their_own_column() -> None:
    shown = run_on_terminal("explain", columns=60).out
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    entries = plain[plain.index("Errors\n") : plain.rindex("\n\n")].splitlines()
    assert max(map(len, plain.splitlines())) <= 60
    assert all(re.match(r"  [a-z-]+ +\S| {20,}\S|[A-Z]|$", line) for line in entries), entries


def test_explain_needs_no_settings_and_no_server() -> None:
    ended = run("explain", "settings-wrong", env={"CELERY_RESULT_BACKEND": "nonsense", "DB_PORT": "x"})
    assert (ended.status, ended.err) == (0, "")


def test_worker_does_not_load_the_entries() -> None:
    program = (
        "import sys, rootcellar.backend.backend, rootcellar.errors\n"
        "str(rootcellar.errors.StoreUnavailable('away'))\n"
        "print([name for name in sys.modules if name.startswith(('rootcellar.troubleshooting', 'rootcellar.checks'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class ErrorOfAnotherPackage(StoreError):
    """An error of a store of another package."""


def test_error_of_another_package_has_its_base_class_name() -> None:
    assert ErrorOfAnotherPackage("odd").code == "store-error"
    assert "rootcellar explain store-error" in str(ErrorOfAnotherPackage("odd"))

"""`rootcellar migrate` on the command line: what it shows, asks and refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rootcellar.migration.pair import Pair
from rootcellar.migration.state import PROCESSES, find_state
from rootcellar.stores.dual.phases import Phase
from tests.commands import Ended, assert_one_line, run, run_here, run_on_terminal
from tests.migration.coordinating import in_store, records, sqlite_pair, to_phase
from tests.servers import RedisServer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a source of 120 results, and no target."""
    with sqlite_pair(tmp_path) as pair:
        pair.source.mirrored.copy(records(120))
    return tmp_path


def urls(folder: Path) -> tuple[str, str]:
    return f"sqlite:///{folder}/source.sqlite3", f"sqlite:///{folder}/target.sqlite3"


def migrate(folder: Path, *args: str) -> Ended:
    return run_here("migrate", args[0], *urls(folder), *args[1:])


def phase_of(folder: Path) -> Phase | None:
    with sqlite_pair(folder) as pair:
        state = find_state(pair.target)
    return None if state is None else state.phase


def silent(pair: Pair, name: str = "web2/4711-5") -> None:
    pair.target.values.share(f"{PROCESSES}{name}", json.dumps({"phase": 0, "epoch": 1, "role": "worker"}))


def test_plan_says_what_would_happen_and_changes_nothing(folder: Path) -> None:
    ended = migrate(folder, "plan")
    assert ended.status == 0
    assert re.search(r"^source +ok .*about 120 results", ended.out, re.MULTILINE)
    assert re.search(r"^target +note .*tables are created by the first process", ended.out, re.MULTILINE)
    assert "None follows the migration yet" in ended.out
    assert not (folder / "target.sqlite3").exists()


def test_plan_is_printed_as_json(folder: Path) -> None:
    found = json.loads(migrate(folder, "plan", "--json").out)
    assert found["possible"] is True
    assert {each["about"] for each in found["findings"]} == {"source", "target", "processes", "counts"}


def test_plan_refuses_write_behind(folder: Path) -> None:
    hybrid = "hybrid://?durable_url=postgresql://localhost/x&cache_url=redis://localhost/0&mode=write-behind"
    ended = run_here("migrate", "plan", hybrid, urls(folder)[1])
    assert ended.status == 1
    assert "write-behind" in ended.out
    assert "switch the hybrid to write-through first" in ended.out
    assert "The migration is not possible" in ended.out


def test_plan_refuses_a_store_that_keeps_nothing(folder: Path) -> None:
    ended = run_here("migrate", "plan", "rpc://", urls(folder)[1])
    assert ended.status == 1
    assert "rpc" in ended.err


def test_commands_of_a_migration_make_it(folder: Path) -> None:
    for args, phase in (
        (("start", "--yes"), Phase.DUAL),
        (("advance", "--yes"), Phase.SWITCHING),
        (("advance", "--yes"), Phase.TARGET_FIRST),
        (("rollback", "--yes", "--to", "dual write"), Phase.DUAL),
        (("advance", "--yes"), Phase.SWITCHING),
        (("advance", "--yes"), Phase.TARGET_FIRST),
        (("advance", "--yes"), Phase.TARGET_ONLY),
        (("retire", "--yes"), Phase.RETIRED),
    ):
        ended = migrate(folder, *args)
        assert (ended.status, phase_of(folder)) == (0, phase), ended
    assert "Set CELERY_RESULT_BACKEND to it" in ended.out
    with sqlite_pair(folder) as pair:
        assert in_store(pair.target.store) == in_store(pair.source.store)


def test_target_named_by_the_environment_is_used(folder: Path) -> None:
    source, target = urls(folder)
    env = {"CELERY_RESULT_BACKEND": f"rootcellar+{source}", "ROOTCELLAR_MIGRATION": target}
    ended = run("migrate", "start", "--yes", env=env, cwd=folder)
    assert ended.status == 0, ended
    assert phase_of(folder) is Phase.DUAL
    assert "dual write" in run("migrate", "status", env=env, cwd=folder).out


def test_missing_target_is_wrong_use(folder: Path) -> None:
    ended = run("migrate", "status", urls(folder)[0], cwd=folder)
    assert ended.status == 2
    assert "give SOURCE and TARGET" in ended.err


def test_command_that_would_ask_needs_yes_without_a_terminal(folder: Path) -> None:
    ended = migrate(folder, "start")
    assert ended.status == 2
    assert "Give --yes" in ended.err
    assert phase_of(folder) is None


def test_guide_asks_before_each_step(folder: Path) -> None:
    ended = run_on_terminal("migrate", *urls(folder), typed="y\n" * 5)
    assert ended.status == 0, ended.out
    for question in (
        "Write every result to both stores from now on?",
        "Let readers ask the target first",
        "stored in the target first",
        "NO WAY BACK",
        "leave the source",
    ):
        assert question in " ".join(ended.out.split())
    assert phase_of(folder) is Phase.RETIRED
    shown = re.sub(r"\x1b\[[0-9;]*[A-Za-z]|[^\n]*\r", "", ended.out).replace("[y/N]: ", "[y/N]:\n")
    # paths are not cut
    assert [line for line in shown.splitlines() if len(line) > 80 and str(folder) not in line] == []


def test_answer_of_no_ends_the_guide_and_it_goes_on_later(folder: Path) -> None:
    ended = run_on_terminal("migrate", "guide", *urls(folder), typed="y\nn\n")
    assert ended.status == 0
    assert "The phase stays 'dual write'" in ended.out
    assert phase_of(folder) is Phase.DUAL
    ended = run_on_terminal("migrate", *urls(folder), typed="y\nn\n")
    assert "Write every result to both stores" not in ended.out
    assert phase_of(folder) is Phase.SWITCHING


def test_guide_goes_on_after_a_rollback(folder: Path) -> None:
    for step in (["start"], ["advance"], ["rollback", "--to", "dual write"]):
        assert migrate(folder, *step, "--yes").status == 0
    ended = run_on_terminal("migrate", *urls(folder), typed="y\nn\n")
    assert ended.status == 0, ended.out
    assert phase_of(folder) is Phase.SWITCHING


def test_status_names_who_is_silent_and_what_was_done(folder: Path) -> None:
    migrate(folder, "start", "--yes")
    with sqlite_pair(folder) as pair:
        silent(pair)
    ended = migrate(folder, "status")
    assert ended.status == 1
    assert re.search(r"^Phase +dual write, since ", ended.out, re.MULTILINE)
    assert re.search(r"^  silent +web2/4711 \(worker\) for \d+ s, last heard of", ended.out, re.MULTILINE)
    assert re.search(r"^Pass +source = target: \d+ results read, ended ", ended.out, re.MULTILINE)
    assert "120 written" in ended.out
    assert re.search(r"^Compared .* 120 results, none differs", ended.out, re.MULTILINE)
    found = json.loads(migrate(folder, "status", "--json").out)
    assert found["unconfirmed"] == ["web2/4711"]
    assert found["state"]["phase_name"] == "dual write"


def test_silent_process_ends_a_command_that_does_not_wait(folder: Path) -> None:
    migrate(folder, "start", "--yes")
    with sqlite_pair(folder) as pair:
        silent(pair, "web2\x1b[31m/4711-5")
    ended = migrate(folder, "advance", "--yes", "--wait", "1s")
    assert ended.status == 1
    assert "web2\\x1b[31m/4711" in ended.err
    assert "--without" in ended.err
    assert phase_of(folder) is Phase.DUAL


def test_postponement_and_rate_are_shown_by_status(folder: Path) -> None:
    migrate(folder, "start", "--yes")
    assert migrate(folder, "postpone", "--reason", "not before the release").status == 0
    ended = run_here("migrate", "rate", "500", *urls(folder))
    assert "at most 500 results a second" in ended.out
    shown = migrate(folder, "status").out
    assert re.search(r"^Postponed +not before the release", shown, re.MULTILINE)
    assert "at most 500 a second" in shown
    assert migrate(folder, "advance", "--yes", "--rate", "0").status == 0
    shown = migrate(folder, "status").out
    assert "Postponed" not in shown
    assert "at most" not in shown


def test_step_that_is_not_possible_is_refused_in_one_line(folder: Path) -> None:
    migrate(folder, "start", "--yes")
    assert_one_line(migrate(folder, "retire", "--yes"), "the source is still in use")
    with sqlite_pair(folder) as pair:
        to_phase(pair, Phase.TARGET_ONLY)
    assert_one_line(migrate(folder, "advance", "--yes"), "this is the last phase", "migrate retire")
    assert_one_line(migrate(folder, "rollback", "--yes"), "there is no way back")


def test_phase_to_go_back_to_must_be_an_earlier_one(folder: Path) -> None:
    ended = migrate(folder, "rollback", "--to", "target only")
    assert ended.status == 2
    assert "dual write" in ended.err


def test_status_is_what_the_source_knows_while_the_target_is_down(
    folder: Path, new_redis: Callable[..., RedisServer]
) -> None:
    server = new_redis()
    pair = (urls(folder)[0], server.url)
    assert run_here("migrate", "start", *pair, "--yes").status == 0
    server.stop()
    ended = run_here("migrate", "status", *pair)
    assert ended.status == 1
    assert re.search(r"^Target +cannot be asked: ", ended.out, re.MULTILINE)
    assert re.search(r"^Phase +dual write", ended.out, re.MULTILINE)


def test_password_of_a_store_is_never_shown(folder: Path, postgres_url: str) -> None:
    password = postgres_url.split(":")[2].partition("@")[0]
    assert password
    with sqlite_pair(folder) as pair:
        shown = [run_here("migrate", each, urls(folder)[0], postgres_url, "--json") for each in ("plan", "status")]
        shown.append(run_here("migrate", "start", urls(folder)[0], postgres_url, "--yes"))
        shown.append(run_here("migrate", "status", urls(folder)[0], postgres_url))
        texts = [each.value for each in pair.source.values.shared("migration/").values()]
    for text in (*texts, *(f"{each.out}{each.err}" for each in shown)):
        assert f":{password}@" not in text

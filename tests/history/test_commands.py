"""The commands that ask about history: history, watch, export and forget, as a user runs them."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from rootcellar.cli.numbers import say_about
from rootcellar.history.endings import Endings
from rootcellar.history.forgetting import Forgetting
from rootcellar.history.grouping.identity import group_of_text
from rootcellar.history.history import History
from rootcellar.history.lists import Page, Tasks
from rootcellar.history.streaming import pages
from rootcellar.payloads import codec_of, make_key
from rootcellar.payloads.blobs.references import BlobSpiller, blob_of
from rootcellar.payloads.blobs.storage import open_blobs
from rootcellar.payloads.encryption import Sealer
from rootcellar.payloads.keys import read_keys
from rootcellar.records import ChordRecord, Payload, TaskRecord
from rootcellar.stores import open_store
from tests.commands import (
    Ended,
    assert_one_line,
    command,
    environment,
    run,
    run_after,
    run_here,
    run_on_terminal,
    run_without,
)
from tests.conformance.registered import MYSQL, POSTGRES, REDIS, SQLITE
from tests.servers import free_port

NOW = datetime.now(timezone.utc)
FAILURE = {"exc_type": "Declined", "exc_message": ["no money"], "exc_module": "shop"}
#: texts that could control or confuse a terminal, a spreadsheet or a reader of JSON
HOSTILE = {
    "colours": "\x1b[31m\x1b]0;title\x07",
    "cursor": "\x1b[2J\x1b[H\r\b\x9b1A",
    "right-to-left": "\u202eabc\u2066\u200f",
    "NUL": "a\x00b",
    "lines": "one\ntwo\u2028three",
    "surrogate": "lone \ud800 surrogate",
    "markup": "[red]x[/red] :smile:",
    "formula": "=cmd|' /C calc'!A0",
    "large": "x\u0301" * 100_000,
}
#: what no output of a command may contain
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200f\u2028\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def payload(value: Any) -> Payload:
    return Payload(json.dumps(value).encode())


def task(number: int, minutes_ago: float = 0, **fields: Any) -> TaskRecord:
    done = NOW - timedelta(minutes=minutes_ago or number)
    values: dict[str, Any] = {
        "state": "SUCCESS",
        "name": "shop.pay",
        "sent_at": done - timedelta(seconds=5),
        "started_at": done - timedelta(seconds=3),
        "done_at": done,
    }
    return TaskRecord(task_id=f"task-{number:03}", **{**values, **fields})


RECORDS = (
    task(1, queue="low", worker="a@host", result=payload(1), kwargs=payload({"order": 17})),
    task(2, state="FAILURE", result=payload(FAILURE), traceback="Traceback\nDeclined"),
    task(3, name="mail.send", queue="low"),
    task(4, name="mail.send", state="RETRY", done_at=None, retries=2, result=payload(FAILURE)),
    task(5, name='odd name: "x"*,()', queue="a,b"),
    task(90, state="FAILURE", result=payload(FAILURE), retries=3),
    task(3000, name="shop.report", result=payload({"rows": [1, 2]})),
)
FILTERS = (
    "",
    "state:failed",
    "state:failed since:1h",
    "-queue:low",
    "task:shop.* OR retries:>2",
    "kwargs.order:17",
    "done:<=1d runtime:3s sort:-done",
    "declined",
    "task:none",
)


@pytest.fixture(params=[SQLITE, POSTGRES, MYSQL, REDIS], ids=lambda store: store.name)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a store of each kind with RECORDS."""
    with request.param.new_place(request) as url:
        keep(url, *RECORDS)
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a SQLite file with RECORDS."""
    url = f"sqlite:///{tmp_path}/kept.sqlite3"
    keep(url, *RECORDS)
    return url


def keep(url: str, *records: TaskRecord) -> None:
    with closing(open_store(url)) as store:
        for record in records:
            store.put(record)


@contextmanager
def asked(url: str, **settings: Any) -> Iterator[History]:
    with History(open_store(url), codec_of(settings)) as history:
        yield history


def ids(ended: Ended) -> list[str]:
    assert ended.status == 0, ended
    return [one["task_id"] for one in json.loads(ended.out)]


# -- history


def test_same_filter_finds_the_same_ids_in_python_and_in_the_terminal(url: str) -> None:
    with asked(url) as history:
        for text in FILTERS:
            expected = [record.task_id for record in history.tasks(text)]
            words = ["--", text] if text.startswith("-") else [text]
            assert ids(run_here("history", "-b", url, "--json", *words)) == expected, text
    assert ids(run_here("history", "-b", url, "--json", "state:failed", "since:1h")) == ["task-002"], "several words"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--state", "failed"], "state:failed"),
        (["--state", "success", "--state", "RETRY"], "state:SUCCESS,RETRY"),
        (["--task", "shop.*"], "task:shop.*"),
        (["--task", 'odd name: "x"*,()'], 'task:"odd name: "*"x"*'),
        (["--queue", "a,b"], 'queue:"a,b"'),
        (["--queue", "low", "--worker", "*@host"], "queue:low worker:*@host"),
        (["--since", "1h", "--until", "2m"], "since:1h until:2m"),
        (["--since", (NOW - timedelta(hours=1)).strftime("%Y%m%dT%H%M%SZ")], "since:1h"),
        (["task:shop.* OR task:mail.*", "--queue", "low"], "(task:shop.* OR task:mail.*) queue:low"),
        (["sort:done", "--state", "FAILURE", "--since", "1d"], "state:FAILURE since:1d sort:done"),
        (["--task", "none"], 'task:"none"'),
    ],
)
def test_option_is_a_short_form_of_a_term(sqlite_url: str, options: list[str], text: str) -> None:
    expected = ids(run_here("history", "-b", sqlite_url, "--json", text))
    assert ids(run_here("history", "-b", sqlite_url, "--json", *options)) == expected
    assert expected or "none" in text


def test_pages_of_history_go_on_where_the_last_one_ended(url: str) -> None:
    whole = ids(run_here("history", "-b", url, "--json"))
    found, after = [], []
    for _ in range(len(RECORDS)):
        ended = run_here("history", "-b", url, "--json", "--limit", "2", *after)
        found += ids(ended)
        if not (after := re.findall(r"^ +(--after) (\S+)$", ended.err, re.MULTILINE)):
            break
        after = list(after[0])
    assert found == whole
    assert_one_line(run_here("history", "-b", url, "--after", "nonsense\x1b[2J"), "not the place of a list")
    other = run_here("history", "-b", url, "--limit", "2")
    (cursor,) = re.findall(r"--after (\S+)", other.err)
    assert_one_line(run_here("history", "-b", url, "state:failed", "--after", cursor), "another list")


def test_json_of_history_has_exactly_these_keys(sqlite_url: str) -> None:
    keys = (
        "state task_id name args kwargs result traceback sent_at started_at done_at expires_at queue worker retries "
        "group_id group_index parent_id root_id children stamps queue_wait_seconds run_seconds"
    )
    found = json.loads(run_here("history", "-b", sqlite_url, "--json").out)
    assert {" ".join(one) for one in found} == {keys}


def test_sentence_of_a_filter_is_printed_beside_the_table(sqlite_url: str) -> None:
    ended = run_here("history", "-b", sqlite_url, "state:failed")
    assert len(ended.out.splitlines()) == 3
    assert re.search(r"^Tasks in state failed.*\.$", ended.err, re.MULTILINE)
    assert run_here("history", "-b", sqlite_url).err == ""


def test_wrong_filter_is_one_line_in_a_pipe_and_has_a_mark_on_a_terminal(sqlite_url: str) -> None:
    for name in ("history", "watch", "export", "forget"):
        options = ["--format", "csv"] if name == "export" else []
        ended = run_here(name, "-b", sqlite_url, *options, "state:failed", "stat:x")
        assert (ended.status, ended.out) == (2, ""), ended
        assert re.fullmatch(r"rootcellar: stat: is no field \[at character 14: .*»stat:x\] -> .*state:.*\n", ended.err)
    assert run_here("stats", "-b", f"postgresql://u@127.0.0.1:{free_port()}/x", "stat:x").status == 2, (
        "before it connects"
    )
    shown = run_on_terminal("history", "-b", sqlite_url, "task:美\x1b[2J stat:x", columns=60)
    assert shown.status == 2
    lines = shown.out.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.strip() == "^"]
    assert lines[at - 1] == "  task:美\\x1b[2J stat:x"
    # 美 takes two columns
    assert lines[at].index("^") == lines[at - 1].index("stat:x") + 1


def test_place_of_a_mistake_fits_the_line_of_a_narrow_terminal(sqlite_url: str) -> None:
    text = " ".join(f"queue:q{number}" for number in range(30))
    shown = run_on_terminal("history", "-b", sqlite_url, f"{text} stat:x {text}", columns=50)
    lines = shown.out.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.strip() == "^"]
    assert len(lines[at - 1]) <= 50
    assert lines[at - 1][lines[at].index("^") :].startswith("stat:x")


def test_tasks_with_values_that_cannot_be_read_are_counted(sqlite_url: str) -> None:
    key = read_keys(make_key(), "keys")
    hidden = Sealer(key).seal(payload({"order": 18}), "hidden", "kwargs")
    keep(sqlite_url, replace(task(9), task_id="hidden", kwargs=hidden))
    ended = run_here("history", "-b", sqlite_url, "kwargs.order:18")
    assert ended.out.startswith("No task matches")
    assert "1 task left out" in ended.err


# -- watch


class Watching:
    """`rootcellar watch` in a process of its own."""

    def __init__(self, url: str, *args: str) -> None:
        self.process = subprocess.Popen(
            command("watch", "-b", url, "--interval", "0.1", *args),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Watching:
        assert self.process.stderr is not None
        assert "Waiting for tasks" in self.process.stderr.readline()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self, number: int) -> Ended:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return Ended(self.process.returncode, out, err)


@pytest.mark.parametrize("url", [SQLITE, POSTGRES], ids=lambda store: store.name, indirect=True)
def test_watch_prints_tasks_when_they_end_and_stops_at_an_interrupt(url: str) -> None:
    now = datetime.now(timezone.utc)
    with Watching(url, "task:shop.*") as watching:
        keep(url, replace(task(101), started_at=now, done_at=now + timedelta(seconds=1), result=payload("x")))
        assert re.search(r'SUCCESS +shop\.pay +task-101 +1\.0 s +"x"$', watching.line())
        keep(url, replace(task(102), name="mail.send", done_at=now + timedelta(seconds=2)))
        # stored late, with an end before that of a task that was printed
        keep(url, replace(task(103), done_at=now - timedelta(seconds=1)))
        assert "task-103" in watching.line()
        assert watching.end(signal.SIGINT) == Ended(130, "", "rootcellar: interrupted\n")


def test_watch_in_a_pipe_prints_one_object_a_line(sqlite_url: str) -> None:
    ended = run_here("watch", "-b", sqlite_url, "--since", "100m", "--limit", "3", "--json", "task:shop.*")
    assert (ended.status, ended.err) == (0, "")
    found = [json.loads(line) for line in ended.out.splitlines()]
    assert [one["task_id"] for one in found] == ["task-090", "task-002", "task-001"]
    assert run_here("watch", "-b", sqlite_url, "sort:done").status == 2


def test_watch_ends_when_its_reader_is_gone(sqlite_url: str) -> None:
    line = [*command("watch", "-b", sqlite_url, "--since", "100m", "--json", "--interval", "0.1"), "--limit", "9999"]
    with subprocess.Popen(
        line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        keep(sqlite_url, replace(task(104), done_at=datetime.now(timezone.utc)))
        assert process.wait(timeout=60) == 1
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_task_is_found_once_for_each_of_its_ends(url: str) -> None:
    now = datetime.now(timezone.utc)
    ahead = replace(task(201), done_at=now + timedelta(hours=1), state="FAILURE", result=payload(FAILURE))
    with asked(url) as history:
        endings = Endings(history, "")
        assert list(endings.read()) == []
        history.store.put(ahead)
        assert [record.task_id for record in endings.read()] == ["task-201"]
        # the clock of the first task's worker is ahead
        history.store.put(replace(task(202), done_at=now))
        assert [record.task_id for record in endings.read()] == ["task-202"]
        assert list(endings.read()) == []
        history.store.put(replace(ahead, state="SUCCESS", result=payload(1), done_at=now + timedelta(seconds=1)))
        assert [record.state for record in endings.read()] == ["SUCCESS"]
        assert list(endings.read()) == []


def test_endings_since_a_moment_do_not_begin_before_it(sqlite_url: str) -> None:
    with asked(sqlite_url) as history:
        since = NOW - timedelta(minutes=2, seconds=5)
        assert [record.task_id for record in Endings(history, "", since).read()] == ["task-002", "task-001"]
        since = NOW - timedelta(minutes=2) + timedelta(milliseconds=1)
        assert [record.task_id for record in Endings(history, "", since).read()] == ["task-001"]


# -- export


@pytest.mark.parametrize("url", [SQLITE, POSTGRES], ids=lambda store: store.name, indirect=True)
def test_every_format_exports_the_same_tasks(url: str, tmp_path: Path) -> None:
    expected = json.loads(run_here("history", "-b", url, "--json", "task:shop.*").out)
    names = [one["task_id"] for one in expected]
    for form in ("csv", "jsonl", "parquet"):
        ended = run_here("export", "-b", url, "task:shop.*", "-o", f"{tmp_path}/out.{form}")
        assert (ended.status, ended.err) == (0, "")
        assert f"{len(names)} tasks written to" in ended.out
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == expected
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["task_id"] for row in rows] == names
    assert json.loads(rows[0]["result"]) == expected[0]["result"]
    assert float(rows[0]["run_seconds"]) == expected[0]["run_seconds"]
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["task_id"] for row in table] == names
    assert table[0]["done_at"] == datetime.fromisoformat(expected[0]["done_at"])
    assert json.loads(table[0]["result"]) == expected[0]["result"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out")) == [
        "out.csv",
        "out.jsonl",
        "out.parquet",
    ]


def test_export_into_a_pipe_is_the_file(sqlite_url: str, tmp_path: Path) -> None:
    for form in ("csv", "jsonl"):
        run_here("export", "-b", sqlite_url, "-o", f"{tmp_path}/x.{form}")
        piped = run("export", "-b", sqlite_url, "--format", form)
        assert piped == Ended(0, (tmp_path / f"x.{form}").read_text(encoding="utf-8"), "")
    assert run_here("export", "-b", sqlite_url).status == 2
    assert run_here("export", "-b", sqlite_url, "-o", f"{tmp_path}/x.xml").status == 2
    assert run_here("export", "-b", sqlite_url, "--format", "csv", "--json").status == 2
    assert run_on_terminal("export", "-b", sqlite_url, "--format", "parquet").status == 2
    described = json.loads(run_here("export", "-b", sqlite_url, "-o", f"{tmp_path}/x.csv", "--json").out)
    assert described == {"tasks": len(RECORDS), "file": f"{tmp_path}/x.csv", "format": "csv"}


def test_cell_that_looks_like_a_formula_begins_with_an_apostrophe(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.sqlite3"
    starts = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\n=1", "\uff1d1+1"]
    keep(url, *(task(number, name=name) for number, name in enumerate(starts, 1)))
    keep(url, task(9, name="late", started_at=NOW - timedelta(days=1), result=payload(-5)))
    rows = list(csv.DictReader(io.StringIO(run("export", "-b", url, "--format", "csv").out)))
    quoted = ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\\tx", "'\\rx", "'\n=1", "'\uff1d1+1"]
    assert [row["name"] for row in rows[:8]] == quoted
    assert rows[8]["result"] == "-5", "a number is no formula"
    assert float(rows[8]["queue_wait_seconds"]) < 0, "a number of ours is no formula"


def test_values_that_are_not_plain_json_are_exported_as_documented(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.sqlite3"
    sealed = Sealer(read_keys(make_key(), "keys")).seal(payload({"secret": 1}), "task-003", "result")
    keep(
        url,
        task(1, result=Payload(b'[NaN, -Infinity, {"x": NaN}]')),
        task(2, result=Payload(b"\x80\x04N.", "application/x-python-serialize", "binary")),
        task(3, result=sealed),
        task(4, result=Payload(b'"lone \\ud800"')),
        task(5, result=Payload(b"[" * 5000 + b"]" * 5000)),
    )
    lines = [json.loads(line)["result"] for line in run("export", "-b", url, "--format", "jsonl").out.splitlines()]
    run_here("export", "-b", url, "-o", f"{tmp_path}/x.parquet")
    rows = parquet.read_table(tmp_path / "x.parquet").to_pylist()
    cells = [row["result"] for row in csv.DictReader(io.StringIO(run("export", "-b", url, "--format", "csv").out))]
    assert lines[0] == json.loads(rows[0]["result"]) == json.loads(cells[0]) == ["NaN", "-Infinity", {"x": "NaN"}]
    assert lines[1] == rows[1]["result"] == cells[1] == "<application/x-python-serialize, 4 bytes>"
    assert re.fullmatch(r"<application/json, encrypted by key \w+, \d+ bytes>", lines[2])
    assert lines[2] == rows[2]["result"] == cells[2]
    assert lines[3] == json.loads(rows[3]["result"]) == json.loads(cells[3]) == "lone \ud800"
    assert re.fullmatch(r"<application/json, 10000 bytes, .*>", lines[4])


#: raises SIGINT in `rootcellar` when it writes the third record
INTERRUPTED = (
    "import itertools, os, signal; import rootcellar.cli.formats as f; n = itertools.count(1); w = f.{0}.write; "
    "f.{0}.write = lambda self, r: (next(n) == 3 and os.kill(os.getpid(), signal.SIGINT), w(self, r))"
)


@pytest.mark.parametrize(("form", "writer"), [("csv", "Csv"), ("jsonl", "JsonLines"), ("parquet", "Parquet")])
def test_interrupted_export_leaves_no_file_and_the_old_one(
    sqlite_url: str, tmp_path: Path, form: str, writer: str
) -> None:
    target = tmp_path / "out" / f"x.{form}"
    target.parent.mkdir()
    options = ["export", "-b", sqlite_url, "-o", str(target), "--format", form]
    ended = run_after(INTERRUPTED.format(writer), *options)
    assert (ended.status, ended.out, ended.err) == (130, "", "rootcellar: interrupted\n")
    assert list(target.parent.iterdir()) == []
    target.write_text("old")
    assert run_after(INTERRUPTED.format(writer), *options).status == 130
    assert [path.read_text() for path in target.parent.iterdir()] == ["old"]
    assert run_here(*options).status == 0
    assert target.read_bytes() != b"old"


def test_export_that_cannot_be_written_is_a_one_line_error(sqlite_url: str, tmp_path: Path) -> None:
    missing = run_here("export", "-b", sqlite_url, "-o", f"{tmp_path}/nowhere/x.csv")
    assert_one_line(missing, "No such file or directory", f"{tmp_path}/nowhere/x.csv")
    assert_one_line(run_here("export", "-b", sqlite_url, "-o", "/dev/full", "--format", "csv"), "No space left", "free")
    assert Path("/dev/full").is_char_device(), "a device is written, not replaced"
    lacking = run_without("pyarrow", "export", "-b", sqlite_url, "-o", f"{tmp_path}/x.parquet")
    assert_one_line(lacking, "pyarrow", "pip install 'rootcellar[parquet]'")
    assert not list(tmp_path.glob("*x.*parquet*"))


def test_export_follows_a_link_to_its_file(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    assert run_here("export", "-b", sqlite_url, "-o", f"{tmp_path}/link.csv").status == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text().startswith("state,")


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_export_keeps_the_mode_of_an_older_file(sqlite_url: str, tmp_path: Path, mode: int) -> None:
    target = tmp_path / "x.csv"
    target.write_text("old")
    target.chmod(mode)
    assert run_here("export", "-b", sqlite_url, "-o", str(target)).status == 0
    assert target.read_text().startswith("state,")
    assert target.stat().st_mode & 0o777 == mode


def test_pages_shrink_while_records_are_large(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.sqlite3"
    large, small = payload("x" * 1_000_000), payload("x")
    keep(url, *(task(number, result=large if number < 40 else small) for number in range(1, 400)))
    with asked(url) as history:
        sizes = [len(page.records) for page in pages(history, first=20)]
    assert sum(sizes) == 399
    assert sizes[:3] == [20, 7, 7], "about 8 MB in a page"
    assert max(sizes) > 100, "they grow when the records are small"


# -- forget


def test_forget_shows_what_it_would_delete_and_needs_a_yes(url: str) -> None:
    shown = run_here("forget", "-b", url, "--dry-run", "task:shop.*")
    assert shown.status == 0
    assert re.search(r"^4 tasks in .*: .*shop\.\*\.$", shown.out, re.MULTILINE)
    assert "task-002" in shown.out
    planned = json.loads(run_here("forget", "-b", url, "--dry-run", "--json", "task:shop.*").out)
    assert (planned["found"], planned["found_all"], planned["forgotten"]) == (4, True, 0)
    assert len(planned["examples"]) == 4
    refused = run_here("forget", "-b", url, "task:shop.*")
    assert refused.status == 2
    assert "Give --yes" in refused.err
    assert len(ids(run_here("history", "-b", url, "--json"))) == len(RECORDS)
    done = json.loads(run_here("forget", "-b", url, "--yes", "--json", "task:shop.*").out)
    assert (done["found"], done["forgotten"]) == (4, 4)
    left = ids(run_here("history", "-b", url, "--json"))
    assert sorted(left) == ["task-003", "task-004", "task-005"]
    again = run_here("forget", "-b", url, "task:shop.*")
    assert again.status == 0, "there is nothing to ask about"
    assert "0 tasks forgotten" in again.out


def test_forget_asks_on_a_terminal(sqlite_url: str) -> None:
    refused = run_on_terminal("forget", "-b", sqlite_url, "state:failed", typed="n\n")
    assert refused.status == 1
    assert "Delete 2 tasks in" in refused.out
    assert "Nothing was changed." in refused.out
    assert len(ids(run_here("history", "-b", sqlite_url, "--json", "state:failed"))) == 2
    assert run_on_terminal("forget", "-b", sqlite_url, "state:failed", typed="y\n").status == 0
    assert ids(run_here("history", "-b", sqlite_url, "--json", "state:failed")) == []


@pytest.mark.parametrize("words", [[], [""], ["  "], ["state:failed sort:done"]])
def test_forget_without_a_clear_filter_is_wrong_use(sqlite_url: str, words: list[str]) -> None:
    ended = run_here("forget", "-b", sqlite_url, "--yes", *words)
    assert (ended.status, ended.out) == (2, "")
    assert len(ids(run_here("history", "-b", sqlite_url, "--json"))) == len(RECORDS)


#: raises SIGINT in `rootcellar` after the first batch; batches are small
BETWEEN_BATCHES = (
    "import os, signal; import rootcellar.history.forgetting as g; g._BATCH = 2; f = g.forget_tasks; "
    "g.forget_tasks = lambda *a: (f(*a), os.kill(os.getpid(), signal.SIGINT))[0]"
)


@pytest.mark.parametrize("url", [SQLITE, POSTGRES], ids=lambda store: store.name, indirect=True)
def test_interrupted_forget_goes_on_when_it_is_run_again(url: str) -> None:
    ended = run_after(BETWEEN_BATCHES, "forget", "-b", url, "--yes", "task:shop.*")
    assert ended.status == 130
    assert "Interrupted. 2 tasks forgotten" in ended.err or "Interrupted. 0 tasks forgotten" in ended.err
    assert len(ids(run_here("history", "-b", url, "--json", "task:shop.*"))) == 2
    assert "2 tasks forgotten" in run_here("forget", "-b", url, "--yes", "task:shop.*").out
    assert ids(run_here("history", "-b", url, "--json", "task:shop.*")) == []


@pytest.mark.parametrize("url", [SQLITE, MYSQL], ids=lambda store: store.name, indirect=True)
def test_task_that_ends_after_the_preview_is_not_forgotten(url: str) -> None:
    with asked(url) as history:
        forgetting = Forgetting(history, "task:shop.*")
        assert forgetting.preview().count == 4
        history.store.put(replace(task(300), done_at=datetime.now(timezone.utc) + timedelta(milliseconds=1)))
        assert forgetting.run() == 4
        assert history.store.get("task-300") is not None
        assert history.store.get("task-003") is not None


@pytest.mark.parametrize("url", [SQLITE, REDIS], ids=lambda store: store.name, indirect=True)
def test_task_that_changes_after_its_page_was_read_is_not_forgotten(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started = datetime.now(timezone.utc) - timedelta(hours=1)
    running = TaskRecord(task_id="runs", state="STARTED", name="slow.ends", started_at=started)
    read = Tasks.page
    with asked(url) as history:
        history.store.put(running)
        history.store.put(replace(running, task_id="lost"))

        def page_before_the_task_ends(tasks: Tasks) -> Page:
            page = read(tasks)
            history.store.put(replace(running, state="SUCCESS", done_at=started + timedelta(minutes=1)))
            return page

        forgetting = Forgetting(history, "state:started task:slow.*")
        monkeypatch.setattr(Tasks, "page", page_before_the_task_ends)

        assert forgetting.run() == 1

        kept = history.store.get("runs")
        assert kept is not None
        assert kept.state == "SUCCESS"
        assert history.store.get("lost") is None


def test_preview_counts_up_to_a_limit(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rootcellar.history.forgetting.CAP", 3)
    with asked(sqlite_url) as history:
        found = Forgetting(history, "state:any").preview()
        assert (found.count, found.is_all, len(found.examples)) == (3, False, 5)
        assert Forgetting(history, "state:failed").preview().is_all


@pytest.mark.parametrize("url", [SQLITE, REDIS], ids=lambda store: store.name, indirect=True)
def test_forget_deletes_blobs_and_keeps_those_of_an_unfinished_chord(url: str, tmp_path: Path) -> None:
    spiller = BlobSpiller(open_blobs(f"file://{tmp_path}/blobs"))
    records = [
        replace(task(number, result=spiller.spill(payload("large"), f"task-{number:03}")), group_id=group)
        for number, group in ((401, None), (402, "open"), (403, "over"))
    ]
    with closing(open_store(url)) as store:
        store.begin_chord(ChordRecord(group_id="open", body=payload({})))
        for record in records:
            store.put(record)
    env = {"ROOTCELLAR_BLOB_URL": f"file://{tmp_path}/blobs"}
    ended = run("forget", "-b", url, "--yes", "id:task-40*", env=env)
    assert (ended.status, "3 tasks forgotten" in ended.out) == (0, True), ended
    kept = [spiller.blobs.get(blob_of(record) or "") is not None for record in records]
    assert kept == [False, True, False]


# -- show


@pytest.mark.parametrize("url", [SQLITE, POSTGRES, MYSQL, REDIS], ids=lambda store: store.name, indirect=True)
def test_show_finds_a_task_by_a_unique_beginning_of_its_id(url: str) -> None:
    uuids = [f"{head}-8f4e-4f7b-a1f4-0e8f0c6f2d11" for head in ("0b5c5f9e", "0b5c5f9f", "0B5c5f9e", "0b5c", "fff")]
    keep(url, *(replace(task(1), task_id=one) for one in (*uuids, "odd_%_id", "odd_%_other", "é1")))

    def shown(prefix: str) -> str:
        ended = run_here("show", "-b", url, "--json", prefix)
        return str(json.loads(ended.out)["task_id"]) if ended.status == 0 else ended.err

    assert [shown(one) for one in ("0b5c5f9e", "0b5c5f9f-", "0B", "0b5c-", "f")] == uuids
    assert (shown("odd_%_i"), shown("é")) == ("odd_%_id", "é1")
    assert "several ids begin with 0b5c5f9" in shown("0b5c5f9")
    assert "nothing is stored" in shown("0b5c5f9d")
    assert "nothing is stored" in shown("0b5c5f9e-9")
    assert "nothing is stored" in shown("odd%")


def test_show_names_the_group_of_a_failure(sqlite_url: str) -> None:
    keep(sqlite_url, task(8, state="FAILURE", result=payload(FAILURE), failure_group=group_of_text("7K2Q9XMD")))
    assert re.search(r"^ +failure group +7K2Q9XMD$", run_here("show", "task-008", "-b", sqlite_url).out, re.MULTILINE)
    assert json.loads(run_here("show", "task-008", "-b", sqlite_url, "--json").out)["failure_group"] == "7K2Q9XMD"
    assert "failure group" not in run_here("show", "task-002", "-b", sqlite_url).out


# -- stats and timeline

SQL = pytest.mark.parametrize("url", [SQLITE, POSTGRES, MYSQL], ids=lambda store: store.name, indirect=True)
#: the finished records of RECORDS
FINISHED = [record for record in RECORDS if record.done_at is not None]


@SQL
def test_stats_have_a_line_for_each_task_and_the_numbers_of_its_rows(url: str) -> None:
    found = json.loads(run_here("stats", "-b", url, "--json").out)
    assert {one["task"]: (one["count"], one["failed"]) for one in found["tasks"]} == {
        name: (
            sum(record.name == name for record in FINISHED),
            sum(record.name == name and record.state == "FAILURE" for record in FINISHED),
        )
        for name in {record.name for record in FINISHED}
    }
    assert (found["total"]["count"], found["total"]["failed"], found["exact"]) == (len(FINISHED), 2, True)
    assert found["total"]["run_seconds"]["longest"] == pytest.approx(3.0)
    assert found["total"]["run_seconds"]["p50"] == pytest.approx(3.0, rel=0.13)
    ended = run_here("stats", "-b", url)
    lines = {line[:21].strip(): line.split() for line in ended.out.splitlines()}
    assert lines["shop.pay"][1:3] == ["3", "66.7%"]
    assert lines["all"][1] == str(len(FINISHED))
    assert all(word.startswith("≈") for word in lines["all"] if word[-1:].isdigit() and "." in word)
    assert "A time with ≈ is within 12%" in ended.err
    narrowed = json.loads(run_here("stats", "-b", url, "--json", "--by-queue", "since:1h", "task:mail.*").out)
    assert [(one["task"], one["queue"], one["count"]) for one in narrowed["tasks"]] == [("mail.send", "low", 1)]


@SQL
def test_statistics_keep_counting_what_was_forgotten(url: str) -> None:
    ended = run_here("forget", "-b", url, "--yes", "task:shop.*")
    assert "The statistics keep counting them." in ended.out
    found = json.loads(run_here("stats", "-b", url, "--json").out)
    assert (found["total"]["count"], found["total"]["failed"]) == (len(FINISHED), 2)


@SQL
def test_timeline_has_a_point_for_each_step_and_every_task_in_one_of_them(url: str) -> None:
    for step in ("minute", "hour", "day"):
        length = timedelta(minutes=95) if step == "minute" else timedelta(days=3)
        since = f"since:{length.total_seconds():.0f}s"
        found = json.loads(run_here("timeline", "-b", url, "--by", step, since, "--json").out)
        points = {datetime.fromisoformat(point["start"]): point["count"] for point in found["points"]}
        starts = sorted(points)
        assert all(0 < (b - a).total_seconds() <= 25 * 3600 for a, b in itertools.pairwise(starts))
        ends = [record.done_at for record in FINISHED if record.done_at and record.done_at > NOW - length]
        assert sum(points.values()) == len(ends)
        assert all(points[max(start for start in starts if start <= end)] for end in ends)


def test_bars_of_a_timeline_fit_80_columns(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/kept.sqlite3"
    keep(url, task(1), task(2, 1, state="FAILURE"), task(3, 1), task(4, 60 * 24 * 3, state="FAILURE"))
    options = ["-b", url, "--by", "day", "since:6d"]
    piped = run_here("timeline", *options).out
    shown = run_on_terminal("timeline", *options, columns=80).out
    assert "\x1b" not in piped
    plain = COLOURS.sub("", shown).splitlines()
    assert [line.rstrip() for line in plain if line.startswith("20")] == piped.splitlines()[1:]
    assert max(map(len, piped.splitlines())) <= 80
    assert re.search(r" 3 +1 +≈2\.9 s +█+▒+$", piped, re.MULTILINE), "the failures are the last part"
    assert re.search(r" 1 +1 +≈2\.9 s +▒+$", piped, re.MULTILINE)
    ascii_only = run("timeline", *options, env={"PYTHONIOENCODING": "ascii"}).out
    assert re.search(r"#+!+$", ascii_only, re.MULTILINE)


def test_question_that_the_counts_cannot_answer_says_so(sqlite_url: str, redis_url: str) -> None:
    assert_one_line(run_here("stats", "-b", sqlite_url, "kwargs.order:17"), "only know tasks, queues, states and times")
    assert_one_line(run_here("timeline", "-b", redis_url), "keeps no counts")
    assert run_here("timeline", "-b", sqlite_url, "--by", "minute", "since:9d").status == 2
    assert run_here("stats", "-b", sqlite_url, "task:none.*").out.startswith("No task that has ended matches")


def test_number_that_is_not_complete_says_at_least(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/kept.sqlite3"
    keep(url, *RECORDS)
    (tmp_path / "kept.sqlite3").chmod(0o444)
    # this user cannot bring the counts up to date; root can write every file, unless it drops that capability
    prefix = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    ended = run("stats", "-b", url, prefix=prefix)
    assert re.search(r"^shop\.pay +≥\d", ended.out, re.MULTILINE)
    assert "there are at least as many as shown" in ended.err


def test_statistics_say_how_far_they_are_behind(sqlite_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with asked(sqlite_url) as history:
        late = replace(history.stats(""), behind_by=timedelta(minutes=7, seconds=3), is_exact=False)
        say_about(history, history.parsed("state:failed"), late)
    err = " ".join(capsys.readouterr().err.split())
    assert "Tasks in state failed. Statistics are 7 min behind" in err


# -- terminal safety


@pytest.fixture(scope="module")
def hostile_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a store whose rows have hostile texts in every field of text."""
    url = f"sqlite:///{tmp_path_factory.mktemp('hostile')}/x.sqlite3"
    for number, text in enumerate(HOSTILE.values(), 1):
        short = text[:200]
        values = payload({text: [text, {"deep": text}]})
        keep(
            url,
            replace(
                task(number, state="FAILURE" if number % 2 else "SUCCESS"),
                task_id=f"{number}-{short}".replace("\x00", "").replace("\ud800", ""),
                name=short.replace("\x00", "").replace("\ud800", ""),
                queue=short.replace("\x00", "").replace("\ud800", ""),
                worker=short.replace("\x00", "").replace("\ud800", ""),
                traceback=f"Traceback\n  {text}",
                result=payload({"exc_type": short, "exc_message": [text], "exc_module": short}),
                args=values,
                kwargs=values,
                stamps=values,
                group_id=short.replace("\x00", "").replace("\ud800", ""),
            ),
        )
    keep(url, task(50, result=Payload(b"[" * 100_000 + b"]" * 100_000), args=Payload(b"\xff\xfe")))
    return url


HOSTILE_COMMANDS = (
    ("history",),
    ("history", "--json"),
    ("history", "\x1b[2J"),
    ("show", "1"),
    ("show", "1", "--json"),
    ("stats",),
    ("stats", "--by-queue", "--json"),
    ("timeline", "state:\x1b[2J"),
    ("watch", "--since", "7d", "--limit", "10"),
    ("watch", "--since", "7d", "--limit", "10", "--json"),
    ("export", "--format", "csv"),
    ("export", "--format", "jsonl"),
    ("forget", "--dry-run", "state:any"),
    ("forget", "--dry-run", "--json", "state:any"),
)


@pytest.mark.parametrize("args", HOSTILE_COMMANDS, ids=" ".join)
def test_text_of_a_row_controls_neither_a_terminal_nor_a_pipe(hostile_url: str, args: tuple[str, ...]) -> None:
    piped = run_here(*args, "-b", hostile_url)
    assert "Traceback (most recent" not in piped.err
    assert UNSAFE.search(piped.out + piped.err) is None
    if args[0] == "watch" and "--json" in args:
        assert all(json.loads(line)["task_id"] for line in piped.out.splitlines())
    if "--json" in args:
        # printed on a terminal as in a pipe
        return
    shown = run_on_terminal(*args, "-b", hostile_url, columns=100)
    assert shown.status == piped.status
    assert UNSAFE.search(COLOURS.sub("", shown.out)) is None
    # our own colours are reset at the end
    assert not COLOURS.findall(shown.out) or COLOURS.findall(shown.out)[-1] == "\x1b[0m"

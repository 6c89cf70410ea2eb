"""The benchmarks run. Their figures are not judged: a machine that runs tests cannot measure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import sealing, serialising
from benchmarks.history.questions import QUESTIONS, SECTION, section_of
from tests.workers import ROOT

RESULTS = ROOT / "benchmarks" / "RESULTS.md"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=150
    )


def test_quick_run_prints_each_row_and_compares() -> None:
    written = RESULTS.stat().st_mtime_ns if RESULTS.exists() else None

    done = run("--quick", "--rows", "store_one,get")

    assert done.returncode == 0, done.stderr
    for heading in ("Machine: ", "Versions: rootcellar ", "store, one process (", "get by id, web process ("):
        assert heading in done.stdout
    for contender in ("rootcellar PostgreSQL", "rootcellar SQLite", "Celery redis", "Celery db+postgresql"):
        assert done.stdout.count(f"  {contender} ") == 2
    assert "x Celery redis; at least 1.00x: " in done.stdout
    assert (RESULTS.stat().st_mtime_ns if RESULTS.exists() else None) == written, (
        "a quick run does not write RESULTS.md"
    )


@pytest.mark.parametrize("rows", ["nothing", "store_one,nothing"])
def test_unknown_row_is_refused(rows: str) -> None:
    done = run("--rows", rows)

    assert done.returncode == 2
    assert "no such rows: nothing" in done.stderr


def test_comparison_with_the_same_checkout_prints_a_ratio_for_each_row() -> None:
    done = run("--quick", "--against", str(ROOT), "--rows", "get,chord_part")

    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("postgres", "redis", "hybrid"))]
    assert [(line[:12].strip(), line[12:46].strip()) for line in lines] == [
        (backend, title)
        for backend in ("postgres", "redis", "hybrid")
        for title in ("get a result", "store a part of a chord")
    ]
    for line in lines:
        before, now, ratio = map(float, line[46:76].split())
        assert min(before, now, ratio) > 0


def test_comparison_with_a_folder_without_the_code_is_refused(tmp_path: Path) -> None:
    done = run("--against", str(tmp_path))

    assert done.returncode == 2
    assert "is no checkout of rootcellar" in done.stderr


def test_benchmark_measures_encryption(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sealing, "ROUNDS", 1)
    monkeypatch.setattr(sealing, "LONG", 0.0001)

    monkeypatch.setattr(sealing, "TEXT_SIZE", 10_000)

    sealing.main()

    table, texts = capsys.readouterr().out.split("\n\n")
    assert [line.split(" | ")[0] for line in texts.splitlines()[2:]] == [f"| {name}" for name in sealing.TEXTS]
    rows = [line.split(" | ") for line in table.splitlines()]
    assert [row[0] for row in rows[2:]] == [
        f"| {name}" for name in ("`json` alone", "plain", "redacted (nothing found)", "signed", "encrypted")
    ]
    assert all(float(cell.strip(" |").replace(",", "")) > 0 for row in rows[2:] for cell in row[1:])


def test_benchmark_measures_typed_json_and_compression(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serialising, "ROUNDS", 1)
    monkeypatch.setattr(serialising, "LARGE", serialising.LARGE[:100])
    monkeypatch.setattr(sealing, "LONG", 0.0001)

    serialising.main()

    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    titles = [line.split(" | ")[0] for line in lines if "encode, µs" in line]
    assert titles[:2] == ["| small and plain", "| 1 MB and plain"]
    assert sum(line.startswith("| `rootcellar-json` |") for line in lines) == 4
    assert len([line for line in lines if line.startswith("| zstd |")]) == 2


def test_questions_about_history_are_asked_of_each_table() -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.history.questions",
        "--rows",
        "3000",
        "--small",
        "500",
        "--rounds",
        "1",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)

    assert done.returncode == 0, done.stderr
    assert section_of(f"# Something else\n\n{done.stdout}") == done.stdout
    assert done.stdout.startswith(SECTION)
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert [row[0].removeprefix("| ") for row in rows] == [question.title for question in QUESTIONS]
    assert all((row[-2] == "-") == (not question.sql) for row, question in zip(rows, QUESTIONS, strict=True))

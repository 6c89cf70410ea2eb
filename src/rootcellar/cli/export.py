"""``rootcellar export``: writes tasks to a file."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import typer

from rootcellar.cli.copy import run_copy
from rootcellar.cli.damage import print_damage
from rootcellar.cli.endpoints import Opened
from rootcellar.cli.files import whole_file
from rootcellar.cli.formats import FORMATS, PARQUET, TEXT_FORMATS, Parquet, Writer
from rootcellar.cli.options import ArchivedOption, Choice, FilterArgument, JsonOption, filter_text, store_options
from rootcellar.cli.output import WrongUse, left_out, number_of_tasks, print_json, say
from rootcellar.cli.progress import Progress
from rootcellar.cli.stores import check_archive, existing_history, existing_results
from rootcellar.cli.times import full_moment
from rootcellar.errors import RootcellarError
from rootcellar.history.filters import parse
from rootcellar.history.lists import Page
from rootcellar.history.streaming import pages
from rootcellar.migration.endpoint import store_endpoint
from rootcellar.migration.parquet import parquet_endpoint

EXAMPLES = """\b
Examples:
  rootcellar export state:failed since:7d -o failures.csv -A shop.celery
  rootcellar export 'task:shop.*' --format jsonl -A shop.celery | gzip > a.gz
  rootcellar export done:2026-11 -o november.parquet -A shop.celery
  rootcellar export --exact -o results.d -A shop.celery
"""


class Format(str, Enum):
    """The formats of an export."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


@store_options
def export(
    choice: Choice,
    words: FilterArgument = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="The format; without it, the end of the file's name decides")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The file; without it, standard output")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Parquet with every byte, which `rootcellar import` reads")
    ] = False,
    archive: ArchivedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write tasks to a file: for a spreadsheet, for another program, or for keeping.

    \b
    csv      a table with a heading. args, kwargs, result, children and
             stamps are JSON. A text that a spreadsheet would take for a
             formula begins with an apostrophe.
    jsonl    one object of JSON a line, as `history --json` prints them
    parquet  Apache Parquet; needs pip install 'rootcellar[parquet]'

    Tasks are read page by page, so that memory does not grow with their number. A file gets its name when it is
    complete: after an error or Ctrl-C there is no new file, and an older one stays. --json prints how many tasks were
    written, and needs --output. NaN is the text "NaN"; a value that is not JSON, that is encrypted with a key that is
    missing here, or that is in a blob is a text like <application/json, encrypted by key k1, 240 bytes>.

    --exact is for moving results to another network: a file FILE.parquet, or a folder with any other name, to which
    saved groups come along. Values stay as they are stored, also encrypted ones; a result in a blob is written itself.
    """
    if exact:
        _export_exactly(choice, filter_text(words), form, output, archive=archive, as_json=as_json)
        return
    name = _format(form, output)
    if as_json and _is_standard(output):
        raise WrongUse("--json describes the export, so the export itself needs a file: give --output FILE")
    query = parse(filter_text(words))
    with existing_history(choice) as opened, _opened(name, output) as writer:
        if archive:
            check_archive(opened)
        progress = Progress("tasks exported")
        problems: tuple[RootcellarError, ...] = ()
        for page in pages(opened, query, archive=archive):
            print_damage(page.records)
            for record in page.records:
                writer.write(record)
            progress.add(len(page.records), _beside(page))
            problems = page.problems
    if as_json:
        print_json({"tasks": progress.count, "file": str(output), "format": name})
    elif not _is_standard(output):
        say(f"{number_of_tasks(progress.count)} written to {output}.")
    left_out(map(str, problems))


def _export_exactly(
    choice: Choice, text: str, form: Format | None, output: Path | None, *, archive: bool, as_json: bool
) -> None:
    """Write an export that can be imported.

    Raises:
        WrongUse: there is no file or folder to write, or it exists.
    """
    if archive:
        raise WrongUse("--exact is for the results in the store: the files of an archive can be imported as they are")
    if form not in (None, Format.PARQUET):
        raise WrongUse("--exact writes Parquet: leave out --format")
    if output is None or _is_standard(output):
        raise WrongUse("--exact writes a file or a folder: give --output")
    if output.exists():
        raise WrongUse(f"{output} exists: name a file or folder that does not exist yet")
    with existing_results(choice) as results:
        # the store is closed by its own block
        end = Opened(store_endpoint(results.store), conf=results.conf)
        file = parquet_endpoint(output)
        try:
            run_copy(end, Opened(file), text, as_json=as_json)
        finally:
            file.close()


def _format(form: Format | None, output: Path | None) -> str:
    """Return the name of the format.

    Raises:
        WrongUse: none is given, and the name of the file does not end with one.
    """
    name = form.value if form is not None else ("" if output is None else output.suffix.removeprefix(".").lower())
    if name not in FORMATS:
        raise WrongUse(f"no format is given: give --format {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if name == PARQUET and _is_standard(output) and sys.stdout.isatty():
        raise WrongUse("parquet is not text: give --output FILE, or send it into a pipe")
    return str(name)


def _is_standard(output: Path | None) -> bool:
    return output is None or str(output) == "-"


@contextmanager
def _opened(name: str, output: Path | None) -> Iterator[Writer]:
    """Open the file, and return its writer."""
    if output is None or _is_standard(output):
        if name != PARQUET:
            yield TEXT_FORMATS[name](cast(io.TextIOWrapper, sys.stdout))
            return
        with Parquet(sys.stdout.buffer) as writer:
            yield writer
        return
    with whole_file(output) as file:
        if name == PARQUET:
            with Parquet(file) as writer:
                yield writer
            return
        text = _text(file)
        yield TEXT_FORMATS[name](text)
        text.detach()


def _text(file: BinaryIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding="utf-8", newline="")


def _beside(page: Page) -> str:
    return "" if page.searched_back_to is None else f", searched back to {full_moment(page.searched_back_to)}"

"""``rootcellar metrics``: prints or serves the metrics of a store for Prometheus."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rootcellar.cli.options import Choice, store_options
from rootcellar.cli.output import print_error, visible
from rootcellar.cli.sizes import parse_size
from rootcellar.cli.stores import chosen_history
from rootcellar.errors import RootcellarError
from rootcellar.metrics.collector import TIMEOUT, StoreCollector
from rootcellar.metrics.families import check_installed, exposition
from rootcellar.metrics.server import MetricsServer, parse_address
from rootcellar.opening import must_exist

EXAMPLES = """\b
Examples:
  rootcellar metrics -A shop.celery
  rootcellar metrics -A shop.celery --listen 127.0.0.1:9872
  rootcellar metrics -b sqlite:///results.sqlite3 --table-limit 50GB
"""


@store_options
def metrics(
    choice: Choice,
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="HOST:PORT", help="Serve http://HOST:PORT/metrics until interrupted"),
    ] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="How long a scrape waits for the store")
    ] = TIMEOUT,
    table_limit: Annotated[
        str | None,
        typer.Option("--table-limit", metavar="SIZE", help="Alert if the tables are larger: 50GB, 800MB, or bytes"),
    ] = None,
) -> None:
    """Print the metrics of a store in Prometheus' format, or serve them.

    Without --listen, the figures are read once. With it, they are read at each scrape. While the store does not answer,
    the server serves the last figures and `rootcellar_up 0`. Serve on 127.0.0.1 unless Prometheus is on another
    machine: the metrics contain names of tasks and queues, and the server has no password.

    Exit status without --listen: 0 if the store answered, 1 if not; then only `rootcellar_up 0` is printed.
    """
    check_installed("rootcellar metrics")
    limit = None if table_limit is None else parse_size(table_limit, "--table-limit")
    address = None if listen is None else parse_address(listen, "--listen")
    with chosen_history(choice) as history:
        collector = StoreCollector(history, must_exist, timeout=timeout, table_limit=limit, on_change=_print_change)
        if address is not None:
            with MetricsServer(address, collector.families, "--listen") as server:
                print(f"rootcellar: metrics are served at {visible(server.url)}", file=sys.stderr, flush=True)
                server.serve_forever()
            return
        text, _ = exposition(collector.families())
    sys.stdout.write(text.decode())
    if collector.failure is not None:
        raise typer.Exit(1)


def _print_change(failure: RootcellarError | None) -> None:
    """Print on standard error that the store cannot be asked, or that it can again."""
    if failure is None:
        print("rootcellar: the store answers again", file=sys.stderr, flush=True)
    else:
        print_error(failure)

"""``celery rootcellar …``: our commands as a command of Celery. Importing it also hides URLs in ``celery report``."""

from __future__ import annotations

import sys
from typing import Any

import click
from celery import signals

from rootcellar.support.hidden_urls import hide_urls


@click.command(
    name="rootcellar",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    help="Run a command of rootcellar, as `rootcellar` itself does.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def rootcellar(arguments: tuple[str, ...]) -> None:
    """Run ``rootcellar`` with these arguments."""
    # imported late: every command of Celery loads this module
    from rootcellar.cli import main

    sys.argv = ["rootcellar", *arguments]
    main()


def _hide(sender: Any = None, **_: Any) -> None:
    """Hide the URLs of an app that uses rootcellar, before a command of Celery prints its configuration."""
    conf = getattr(sender, "conf", None)
    if conf is not None and str(conf.get("result_backend") or "").startswith("rootcellar+"):
        hide_urls(conf)


signals.import_modules.connect(_hide, weak=False)

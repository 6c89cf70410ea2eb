"""``rootcellar init``: writes a small project for a broker and a result backend."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from rootcellar.cli.options import JsonOption
from rootcellar.cli.output import console, print_json, say, visible
from rootcellar.descriptions import backend_names, backend_of_name
from rootcellar.onboarding.recommend import RedisForm, Setup, recommend
from rootcellar.onboarding.recommend.setup import BROKERS

EXAMPLES = """\b
Examples:
  rootcellar init shop
  rootcellar init shop --broker rabbitmq --backend postgres
  rootcellar init shop --backend postgres --pgbouncer --expires never --force
"""

#: what is printed beside a file
_NOTES = {".env": " (has the passwords, readable only by you)"}
Broker = Enum("Broker", {name: name for name in BROKERS}, type=str)  # type: ignore[misc]
Backend = Enum("Backend", {name: name for name in backend_names()}, type=str)  # type: ignore[misc]


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder, which is created if it does not exist")],
    broker: Annotated[Broker | None, typer.Option("--broker", help="What distributes tasks [redis]")] = None,
    backend: Annotated[Backend | None, typer.Option("--backend", help="Where results are kept [postgres]")] = None,
    redis: Annotated[
        RedisForm, typer.Option("--redis", help="How your Redis runs; compose.yaml can start only a single one")
    ] = RedisForm.SINGLE,
    pgbouncer: Annotated[bool, typer.Option("--pgbouncer", help="Put PgBouncer in front of PostgreSQL")] = False,
    tls: Annotated[bool, typer.Option("--tls", help="Your servers use TLS; then no compose.yaml is written")] = False,
    expires: Annotated[
        str, typer.Option("--expires", metavar="TIME", help="How long results are kept: 12h, 30d, never")
    ] = "",
    extended: Annotated[bool, typer.Option("--extended", help="Keep the arguments of tasks too")] = False,
    acks_late: Annotated[
        bool, typer.Option("--acks-late", help="Run a task again if its worker was killed; it must allow that")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace existing files; the passwords in .env are kept")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a small project that works: settings, tasks, a client, and a compose.yaml of the servers.

    Without options it asks the questions of `rootcellar recommend` on a terminal; without a terminal it chooses Redis
    and PostgreSQL. Passwords are random and only in .env. If files exist already, it lists them and writes nothing,
    unless --force is given.
    """
    chosen = _chosen(broker, backend, redis, is_asked=not (pgbouncer or tls or expires or as_json))
    setup = replace(
        chosen,
        redis=redis if redis is not RedisForm.SINGLE else chosen.redis,
        pgbouncer=pgbouncer or chosen.pgbouncer,
        tls=tls,
        expires=_duration(expires) or chosen.expires,
        extended=extended or chosen.extended,
        acks_late=acks_late or chosen.acks_late,
    )
    # imported late: no other command needs the templates
    from rootcellar.onboarding.project import write

    written = write(folder, setup, force=force)
    if as_json:
        print_json(
            {
                "folder": str(written.folder),
                "broker": setup.broker,
                "backend": setup.backend,
                "files": list(written.files),
                "replaced": list(written.replaced),
            }
        )
        return
    say(f"Broker {setup.broker}, result backend {setup.backend}. Written to {visible(str(folder))}:")
    for name in written.files:
        note = " (replaced)" if name in written.replaced else _NOTES.get(name, "")
        console().print(f"  {name}{note}", soft_wrap=True)
    say("\nWhat to do next is in its README.md:")
    console().print(f"  cd {visible(shlex.quote(str(folder)))}", soft_wrap=True)
    console().print("  less README.md", soft_wrap=True)


def _chosen(broker: Broker | None, backend: Backend | None, redis: RedisForm, *, is_asked: bool) -> Setup:
    """Return the set-up of the options, else of the answers on a terminal, else the default."""
    if broker is None and backend is None and redis is RedisForm.SINGLE and is_asked and sys.stdin.isatty():
        # imported late: the other commands ask nothing
        from rootcellar.cli.asking import ask_needs

        found = recommend(ask_needs())
        say(f"\n{found.backend}: {found.backend_reason.text}")
        say(f"{found.broker}: {found.broker_reason.text}\n")
        return found.setup
    name = backend.value if backend else "redis" if redis is not RedisForm.SINGLE else "postgres"
    described = backend_of_name(name)
    usual = (described.broker if described else "") or "redis"
    return Setup(broker=broker.value if broker else usual, backend=name)


def _duration(text: str) -> str:
    from rootcellar.configuration.reading import allowed

    if text:
        kind = allowed("CELERY_RESULT_EXPIRES")
        try:
            kind.read(text)
        except ValueError:
            raise typer.BadParameter(f"must be {kind.words}".replace("`", ""), param_hint="--expires") from None
    return text

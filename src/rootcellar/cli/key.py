"""``rootcellar key``: a new key."""

from __future__ import annotations

from typing import Annotated

import typer

from rootcellar.payloads import make_key

EXAMPLES = """\b
Examples:
  rootcellar key
  rootcellar key --id 2031-05 > new.key
"""


def key(
    key_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Its name in what is stored; derived from it otherwise")
    ] = None,
) -> None:
    """Make a key for ROOTCELLAR_ENCRYPTION_KEYS or ROOTCELLAR_SIGNING_KEYS.

    It prints `id:key`, of 32 random bytes in base64. Put it before the keys that there are, and keep those
    until `rootcellar rekey` has been run.
    """
    print(make_key(key_id))

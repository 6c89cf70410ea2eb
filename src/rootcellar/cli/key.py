"""``rootcellar key``: creates a key."""

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
        str | None,
        typer.Option("--id", metavar="ID", help="The key's id in stored results; by default derived from the key"),
    ] = None,
) -> None:
    """Create a key for ROOTCELLAR_ENCRYPTION_KEYS or ROOTCELLAR_SIGNING_KEYS.

    It prints `id:key`; the key is 32 random bytes in base64. Put it before the existing keys, and keep those until
    `rootcellar rekey` has been run.
    """
    print(make_key(key_id))

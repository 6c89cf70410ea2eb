"""Makes random passwords for a new project, and keeps existing ones."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from rootcellar.descriptions import PLACEHOLDER
from rootcellar.onboarding.project.contents import generated
from rootcellar.onboarding.recommend import Setup

#: random bytes; the text has only letters, digits, - and _, which have no meaning in files and shells
_BYTES = 24


def passwords_for(setup: Setup, existing: Path) -> Mapping[str, str]:
    """Return a password for each variable that needs one; passwords in the file ``existing`` are kept.

    A server that was started with the old passwords refuses new ones.
    """
    kept = dotenv_values(existing, interpolate=False) if existing.is_file() else {}
    ours = generated(setup)
    return {
        name: _kept(kept.get(name)) or (secrets.token_urlsafe(_BYTES) if name in ours else PLACEHOLDER)
        for name in (each.name for each in setup.variables() if each.is_secret)
    }


def _kept(password: str | None) -> str | None:
    return None if password == PLACEHOLDER else password

"""Makes random passwords for a new project, and keeps existing ones."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from rootcellar.descriptions import PLACEHOLDER
from rootcellar.onboarding.project.contents import generated
from rootcellar.onboarding.recommend import Setup

#: bytes of randomness; the text is of letters, digits, - and _, which no file and no shell makes anything of
_BYTES = 24


def passwords_for(setup: Setup, existing: Path) -> Mapping[str, str]:
    """Return a password for each variable that needs one; what the file ``existing`` has is kept.

    A server that was started with the old passwords would refuse new ones.
    """
    kept = dotenv_values(existing, interpolate=False) if existing.is_file() else {}
    ours = generated(setup)
    return {
        name: _kept(kept.get(name)) or (secrets.token_urlsafe(_BYTES) if name in ours else PLACEHOLDER)
        for name in (each.name for each in setup.variables() if each.is_secret)
    }


def _kept(password: str | None) -> str | None:
    return None if password == PLACEHOLDER else password

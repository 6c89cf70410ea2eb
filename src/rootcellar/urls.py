"""URLs without their secrets."""

from __future__ import annotations

import re

_MASK = "**"
_USERINFO = re.compile(r"(?<=//)([^/@?#\s]*?):([^/?#\s]*)(?=@)")
#: a password with characters that should have been written as %XX; what follows it may be masked with it
_ODD_USERINFO = re.compile(r"(?<=//)([^/@?#\s:]*):(?!\*\*@)\S*(?=@)")
_SECRET_QUERY = re.compile(r"(?i)([?&;][^=&]*(?:password|secret|token|passphrase)[^=&]*=)[^&;#]*")


def redact(url: str) -> str:
    """Return ``url`` with every password in it masked, also where several hosts each have one."""
    parts = [_USERINFO.sub(rf"\1:{_MASK}", part) for part in url.split(";")]
    parts = [_ODD_USERINFO.sub(rf"\1:{_MASK}", part) for part in parts]
    return _SECRET_QUERY.sub(rf"\1{_MASK}", ";".join(parts))

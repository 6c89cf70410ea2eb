"""Passwords that change: read again at each connect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rootcellar.errors import ConfigurationError, StoreUnavailable
from rootcellar.support.interruptions import raise_interruption

#: the setting
SETTING = "result_backend_password"
#: a function without arguments that returns the current password
Source = Callable[[], str]


class PasswordFile:
    """A file with a password. It is read at each connect. One newline at its end is not part of the password.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self) -> str:
        """Return the password in the file.

        Raises:
            StoreUnavailable: the file cannot be read now.
        """
        try:
            return Path(self._path).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
            raise StoreUnavailable(
                f"the password cannot be read: {reason}", where=self._path, remedy="see whether the file is there"
            ) from exc

    def __repr__(self) -> str:
        return f"PasswordFile({self._path!r})"


def source_of(given: Any, *kinds: str) -> str | Source | None:
    """Return the password of one store: a text, or a function that returns it.

    Args:
        given: the value of :data:`SETTING`: a text, a function, or a mapping from the kind of store to one of these.
        kinds: the names for this kind of store, such as ``mysql`` and ``mariadb``.

    Raises:
        ConfigurationError: it is something else.
    """
    found = next((given[kind] for kind in kinds if kind in given), None) if isinstance(given, Mapping) else given
    if found is None or isinstance(found, str) or callable(found):
        return found
    raise ConfigurationError(
        f"{SETTING} is a {type(found).__name__}",
        where=SETTING,
        remedy="give a text, a function without arguments that returns one, or a mapping such as "
        "{'postgresql': function, 'redis': function}",
    )


def current(password: Any) -> Any:
    """Return the current password: the result of a function, or any other value unchanged.

    Raises:
        StoreUnavailable: the function failed, or returned no text.
    """
    if not callable(password):
        return password
    try:
        found = password()
    except StoreUnavailable:
        raise
    except Exception as exc:  # the user's function may raise any error, such as one of a cloud's library
        raise_interruption(exc)
        # the text of the error may contain a secret
        raise StoreUnavailable(
            f"the function that returns the password failed with {type(exc).__name__}",
            where=SETTING,
            remedy="see the error that caused this one",
        ) from exc
    if not isinstance(found, str):
        raise StoreUnavailable(
            f"the function that returns the password returned a {type(found).__name__}",
            where=SETTING,
            remedy="return a text",
        )
    return found

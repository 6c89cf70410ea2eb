"""Reads the settings for payloads: from Celery's configuration, then from the environment.

This module also reads the environment: if ``ROOTCELLAR_ENCRYPTION_KEYS`` is set, results are always encrypted, even if
the app does not use :func:`rootcellar.settings`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rootcellar.errors import ConfigurationError
from rootcellar.payloads.blobs import BlobSpiller, open_blobs
from rootcellar.payloads.codec import Codec
from rootcellar.payloads.compression import compressor_of
from rootcellar.payloads.encryption import Sealer
from rootcellar.payloads.keys import Keyring, read_keys
from rootcellar.payloads.redaction.patterns import read_patterns
from rootcellar.payloads.redaction.per_task import Redactor
from rootcellar.payloads.size_limits import REFUSE, SPILL, Limit, read_choice
from rootcellar.payloads.typed import Classes, Reader
from rootcellar.support.sizes import read_size

_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

#: setting of Celery's configuration -> variable of the environment
VARIABLES = {
    "result_encryption_keys": "ROOTCELLAR_ENCRYPTION_KEYS",
    "result_signing_keys": "ROOTCELLAR_SIGNING_KEYS",
    "result_accept_unsealed": "ROOTCELLAR_ACCEPT_UNSEALED",
    "result_redact": "ROOTCELLAR_REDACT",
    "result_failure_libraries": "ROOTCELLAR_FAILURE_LIBRARIES",
    "result_max_size": "ROOTCELLAR_RESULT_MAX_SIZE",
    "result_too_large": "ROOTCELLAR_RESULT_TOO_LARGE",
    "result_blob_url": "ROOTCELLAR_BLOB_URL",
    "result_track_sent": "ROOTCELLAR_TRACK_SENT",
    "result_sent_state": "ROOTCELLAR_SENT_STATE",
    "result_history": "ROOTCELLAR_HISTORY",
    "result_archive": "ROOTCELLAR_ARCHIVE",
}
#: the value of ``result_history`` with which tasks that ignore their results are kept too
HISTORY_OF_IGNORED = "ignored too"
_SECRET = ("result_encryption_keys", "result_signing_keys", "result_blob_url", "result_archive")


def codec_of(conf: Mapping[str, Any], **options: Any) -> Codec:
    """Return the codec of Celery's configuration.

    Args:
        conf: Celery's configuration, or an empty mapping for the environment alone.
        options: other arguments of :class:`Codec`, such as ``serializer``.

    Raises:
        ConfigurationError: a setting is wrong.
        DriverMissing: a setting needs a package that is not installed.
    """
    transport_options = conf.get("result_backend_transport_options") or {}

    def option(name: str) -> Any:
        """Return a setting of Celery's configuration, or one of our transport options."""
        value = conf.get(name)
        return transport_options.get(name) if value is None else value

    modules = type_modules_of(conf)
    return Codec(
        compressor=compressor_of(option),
        reader=Reader(Classes(modules)),
        sealer=sealer_of(conf),
        redactor=redactor_of(conf),
        limit=limit_of(conf),
        spiller=spiller_of(conf),
        old_pickles=bool(option("result_accept_old_pickles")),
        **options,
    )


def sealer_of(conf: Mapping[str, Any]) -> Sealer:
    """Return how payloads are encrypted and signed.

    Args:
        conf: Celery's configuration, or an empty mapping for the environment alone.

    Raises:
        ConfigurationError: a key is wrong.
        DriverMissing: encryption needs a package that is not installed.
    """
    return Sealer(
        _keys(conf, "result_encryption_keys"),
        _keys(conf, "result_signing_keys"),
        accept_unsealed=flag_of(conf, "result_accept_unsealed", default=False),
    )


def redactor_of(conf: Mapping[str, Any]) -> Redactor:
    """Return the redaction of the settings.

    Raises:
        ConfigurationError: a pattern is not valid.
    """
    return Redactor(read_patterns(*value_of(conf, "result_redact")))


def limit_of(conf: Mapping[str, Any]) -> Limit:
    """Return how large results may be.

    Raises:
        ConfigurationError: a setting is wrong, or there is no blob store for large results.
    """
    choice, where = value_of(conf, "result_too_large")
    limit = Limit(
        read_size(*value_of(conf, "result_max_size")), REFUSE if choice is None else read_choice(choice, where)
    )
    if limit.too_large == SPILL and value_of(conf, "result_blob_url")[0] is None:
        raise ConfigurationError(
            "no blob store is set for results that are too large",
            where=where,
            remedy="set ROOTCELLAR_BLOB_URL (result_blob_url) to a folder that all workers and clients share, or a URL",
        )
    return limit


def spiller_of(conf: Mapping[str, Any]) -> BlobSpiller | None:
    """Return the blob store for results that are too large, or ``None`` if none is set.

    Raises:
        ConfigurationError: fsspec cannot open it.
        DriverMissing: fsspec is not installed.
    """
    url, _ = value_of(conf, "result_blob_url")
    return None if url is None else BlobSpiller(open_blobs(str(url)))


def value_of(conf: Mapping[str, Any], setting: str) -> tuple[Any, str]:
    """Return a setting's value and its origin; the value is ``None`` if it was not given.

    Raises:
        ConfigurationError: the file with its value cannot be read.
    """
    value = conf.get(setting)
    if value is None:
        value = _transport_option(conf, setting)
    if value is not None and value != "":
        return value, setting
    variable = VARIABLES[setting]
    if text := os.environ.get(variable):
        return text, variable
    if setting in _SECRET and (path := os.environ.get(f"{variable}_FILE")):
        try:
            return Path(path).read_text(encoding="utf-8").strip(), f"{variable}_FILE"
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
            raise ConfigurationError(
                f"{path} cannot be read: {reason}",
                where=f"{variable}_FILE",
                remedy="name a file that this user may read",
            ) from None
    return None, variable


def _transport_option(conf: Mapping[str, Any], setting: str) -> Any:
    """Return a setting from our transport options, which may contain no secrets."""
    value = (conf.get("result_backend_transport_options") or {}).get(setting)
    if value is not None and setting in _SECRET:
        raise ConfigurationError(
            f"{setting} must not be among the transport options: `celery report` prints those",
            where="result_backend_transport_options",
            remedy=f"set {setting} as a setting of its own, or {VARIABLES[setting]} in the environment",
        )
    return value


def flag_of(conf: Mapping[str, Any], setting: str, *, default: bool) -> bool:
    """Return a setting that is on or off.

    Raises:
        ConfigurationError: it is neither on nor off.
    """
    value, where = value_of(conf, setting)
    word = str(value).strip().lower()
    if value is None:
        return default
    if word not in _TRUE + _FALSE:
        raise ConfigurationError(f"it must be true or false, not {value!r}", where=where, remedy="write true or false")
    return word in _TRUE


def keeps_ignored(conf: Mapping[str, Any]) -> bool:
    """Return whether the end of a task that ignores its result is recorded.

    Raises:
        ConfigurationError: the setting is wrong.
    """
    value, where = value_of(conf, "result_history")
    if value is None:
        return False
    if str(value).strip().lower() != HISTORY_OF_IGNORED:
        raise ConfigurationError(
            f"the history cannot be {value!r}", where=where, remedy=f"write {HISTORY_OF_IGNORED!r}, or nothing"
        )
    return True


def _keys(conf: Mapping[str, Any], setting: str) -> Keyring | None:
    value, where = value_of(conf, setting)
    if value is None or isinstance(value, Keyring):
        return value
    text = value if isinstance(value, str) else "\n".join(map(str, value))
    return read_keys(text, where)


def _names(modules: Any) -> list[str]:
    """Return the names from a list or from a text with commas."""
    names = modules.split(",") if isinstance(modules, str) else modules
    return [str(name).strip() for name in names if str(name).strip()]


def type_modules_of(conf: Any) -> tuple[str, ...] | None:
    """Return the modules whose classes stored values may contain, or ``None`` if not set."""
    transport_options = conf.get("result_backend_transport_options") or {}
    modules = conf.get("result_type_modules")
    modules = transport_options.get("result_type_modules") if modules is None else modules
    return None if modules is None else tuple(_names(modules))

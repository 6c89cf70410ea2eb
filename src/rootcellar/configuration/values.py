"""Reads the values of variables, and describes what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from kombu.serialization import registry
from pydantic import GetCoreSchemaHandler, SecretStr
from pydantic_core import CoreSchema, core_schema

from rootcellar.descriptions import backend_names
from rootcellar.errors import ConfigurationError
from rootcellar.payloads.compression import known_compression
from rootcellar.payloads.redaction.patterns import read_patterns
from rootcellar.payloads.settings import HISTORY_OF_IGNORED
from rootcellar.payloads.size_limits import TOO_LARGE_CHOICES
from rootcellar.support.sizes import read_size

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_NEVER = frozenset({"", "0", "none", "never"})
#: a hundred years: a longer time is a mistake, and too long for clocks and dates
_MAX_SECONDS = 100 * 366 * 86400
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])?")
_HOST = r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+)"
_NODE = re.compile(rf"({_HOST})(?::(\d+))?")
_WORD = re.compile(r"[A-Za-z_][\w$-]*")


@dataclass(frozen=True, slots=True)
class Allowed:
    """An annotation of a variable: what its value may be.

    Attributes:
        words: what is allowed, for messages and the documentation.
        read: returns the value of a text; raises ValueError (or KeyError) if the text is not allowed.
        short: a shorter form of ``words`` for tables.
        must_exist: whether the value is the path of a file that must exist.
    """

    words: str
    read: Callable[[str], Any]
    short: str = ""
    must_exist: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._validate, handler(source))

    def _validate(self, text: Any) -> Any:
        if not isinstance(text, str):
            return text
        try:
            return self.read(text)
        except (ValueError, KeyError, OSError) as exc:
            raise ValueError(f"must be {self.words}") from exc


def read_flag(text: str) -> bool:
    """Return True or False for a text such as ``yes`` or ``off``. Raises ValueError for any other text."""
    word = text.strip().lower()
    if word in _TRUE | _FALSE:
        return word in _TRUE
    raise ValueError(text)


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = int(text)
        if number < least or (most is not None and number > most):
            raise ValueError(text)
        return number

    return read


def read_seconds(text: str) -> float:
    """Return the seconds of ``90``, ``1.5``, ``200ms``, ``30s``, ``15m``, ``12h``, ``7d`` or ``2w``."""
    match = _DURATION.fullmatch(text.strip().lower())
    if not match:
        raise ValueError(text)
    seconds = float(match[1]) * _UNITS[match[2] or "s"]
    if seconds > _MAX_SECONDS:
        raise ValueError(text)
    return seconds


def _expiry(text: str) -> timedelta | None:
    return None if text.strip().lower() in _NEVER else timedelta(seconds=read_seconds(text)) or None


def _recycle(text: str) -> float:
    return -1.0 if text.strip() == "-1" else read_seconds(text)


def read_nodes(text: str) -> tuple[str, ...]:
    """Return the ``host`` or ``host:port`` of a list with commas."""
    nodes = tuple(node.strip() for node in text.split(",") if node.strip())
    if not nodes:
        raise ValueError(text)
    for node in nodes:
        match = _NODE.fullmatch(node)
        if not match or not 0 < int(match[2] or 1) < 65536:
            raise ValueError(node)
    return nodes


def _host(text: str) -> str:
    if not re.fullmatch(_HOST, text.strip()):
        raise ValueError(text)
    return text.strip()


def _database_host(text: str) -> str:
    """Read one host, several with commas, or the folder of a local socket."""
    return text.strip() if text.startswith("/") else ",".join(_host(host) for host in text.split(","))


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.strip().lower() not in words:
            raise ValueError(text)
        return text.strip().lower()

    return read


def _identifier(text: str) -> str:
    if not _WORD.fullmatch(text.strip()):
        raise ValueError(text)
    return text.strip()


def _zone(text: str) -> str:
    return ZoneInfo(text.strip()).key


def _serializer(text: str) -> str:
    name = text.strip()
    if name not in registry.name_to_type:
        raise ValueError(text)
    return name


def _contents(text: str) -> tuple[str, ...]:
    """Read the names of serializers, or content types."""
    found = tuple(name if "/" in name else _serializer(name) for name in map(str.strip, text.split(",")) if name)
    if not found:
        raise ValueError(text)
    return found


def _modules(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names or not all(part.isidentifier() for name in names for part in name.split(".")):
        raise ValueError
    return names


def _compression(text: str) -> str:
    try:
        known_compression(text.strip())
    except ConfigurationError as exc:
        raise ValueError(exc.what) from None
    return text.strip()


def _size(text: str) -> str:
    try:
        read_size(text, "")
    except ConfigurationError as exc:
        raise ValueError(text) from exc
    return text


def _patterns(text: str) -> str:
    try:
        read_patterns(text, "")
    except ConfigurationError as exc:
        raise ValueError(text) from exc
    return text


def _text(text: str) -> str:
    return text


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(text)
    return text


def _secret(text: str) -> SecretStr:
    return SecretStr(text)


_DURATION_WORDS = "seconds, or a number with a unit: `200ms`, `30s`, `15m`, `12h`, `7d`, `2w`"
#: PostgreSQL's words, in their order of strictness
SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

Flag = Annotated[
    bool | None, Allowed("`true` or `false` (also `1`, `0`, `yes`, `no`, `on`, `off`)", read_flag, "`true` or `false`")
]
Port = Annotated[int | None, Allowed("a port, 1 to 65535", _whole(1, 65535))]
Count = Annotated[int | None, Allowed("a whole number from 1 on", _whole(1))]
CountOrNone = Annotated[int | None, Allowed("a whole number from 0 on", _whole(0))]
Seconds = Annotated[float | None, Allowed(_DURATION_WORDS, read_seconds, "a duration")]
Expiry = Annotated[
    timedelta | None,
    Allowed(f"{_DURATION_WORDS}; `0`, `none` and `never` for never", _expiry, "a duration, or `never`"),
]
Recycle = Annotated[
    float | None,
    Allowed(f"{_DURATION_WORDS}; `-1` for never", _recycle, "a duration, or `-1` for never"),
]
Host = Annotated[str | None, Allowed("a host name or an IP address", _host)]
DatabaseHost = Annotated[
    str | None,
    Allowed("a host name or an IP address, several with commas, or the folder of a local socket", _database_host),
]
Nodes = Annotated[tuple[str, ...] | None, Allowed("`host` or `host:port`, several with commas", read_nodes)]
Sslmode = Annotated[str | None, Allowed("one of " + ", ".join(f"`{mode}`" for mode in SSLMODES), _one_of(*SSLMODES))]
Prepared = Annotated[str | None, Allowed("one of `auto`, `on`, `off`", _one_of("auto", "on", "off"))]
CertReqs = Annotated[
    str | None, Allowed("one of `required`, `optional`, `none`", _one_of("required", "optional", "none"))
]
ExchangeType = Annotated[
    str | None,
    Allowed("`direct` or `topic`: others do not deliver a result to its client only", _one_of("direct", "topic")),
]
Mode = Annotated[str | None, Allowed("`write-through` or `write-behind`", _one_of("write-through", "write-behind"))]
Zone = Annotated[str | None, Allowed("a time zone such as `UTC` or `Europe/Prague`", _zone)]
Serializer = Annotated[
    str | None,
    Allowed(
        "a serializer: `rootcellar-json`, `json`, `msgpack`, `yaml`, `pickle`, or one that you registered with kombu "
        "before",
        _serializer,
    ),
]
Contents = Annotated[
    tuple[str, ...] | None, Allowed("serializers that kombu knows, or content types, several with commas", _contents)
]
Modules = Annotated[tuple[str, ...] | None, Allowed("names of modules, several with commas", _modules)]
Level = Annotated[int | None, Allowed("a whole number, -7 to 22, as the compression has it", _whole(-7, 22))]
Compression = Annotated[
    str | None, Allowed("a compression that kombu knows here: `gzip`, `bzip2`, `lzma`, `zstd`, `brotli`", _compression)
]
Identifier = Annotated[str | None, Allowed("a name of letters, digits and `_`", _identifier)]
Size = Annotated[str | None, Allowed("bytes, or `512KB`, `10MB`, `1GB`; `0` for no limit", _size)]
TooLarge = Annotated[str | None, Allowed("one of `refuse`, `truncate`, `spill`", _one_of(*TOO_LARGE_CHOICES))]
History = Annotated[str | None, Allowed(f"`{HISTORY_OF_IGNORED}`", _one_of(HISTORY_OF_IGNORED))]
BlobUrl = Annotated[SecretStr | None, Allowed("a path, or a URL", _secret)]
StoreUrl = Annotated[SecretStr | None, Allowed("a store's URL, with or without `rootcellar+`", _secret)]
Patterns = Annotated[
    str | None,
    Allowed("names such as `pin`, paths such as `card.number`, several with commas; or `on`, or `off`", _patterns),
]
Rules = Annotated[str | None, Allowed("a list of rules as JSON, or the path of a JSON or TOML file", _text)]
Text = Annotated[str | None, Allowed("any text", _text)]
File = Annotated[str | None, Allowed("the path of a file", _text, must_exist=True)]
NewFile = Annotated[str | None, Allowed("the path of a file", _text)]
Socket = Annotated[str | None, Allowed("the absolute path of a socket", _path)]
Secret = Annotated[SecretStr | None, Allowed("any text, with any characters", _secret)]
BrokerChoice = Annotated[SecretStr | None, Allowed("`redis`, `rabbitmq`, or a URL that Celery knows", _secret)]
BackendChoice = Annotated[
    SecretStr | None,
    Allowed(
        ", ".join(f"`{name}`" for name in backend_names()) + ", or a store's URL, with or without `rootcellar+`",
        _secret,
    ),
]

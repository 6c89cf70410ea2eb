"""The names of rootcellar's own markers. An application may not register them."""

BUILT_IN = frozenset(
    {
        "attrs",
        "bytearray",
        "complex",
        "dataclass",
        "datetime",
        "dict",
        "enum",
        "float",
        "frozenset",
        "int",
        "ndarray",
        "numpy",
        "path",
        "posix-path",
        "pydantic",
        "range",
        "set",
        "time",
        "timedelta",
        "tuple",
        "windows-path",
        "zone",
    }
)

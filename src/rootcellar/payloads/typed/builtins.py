"""The names of the markers that are rootcellar's own: no application may register one of them."""

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

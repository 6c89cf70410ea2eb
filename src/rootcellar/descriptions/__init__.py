"""What rootcellar knows of each backend that users can choose: one file for each.

The settings, the checks, the recommendation, ``rootcellar init`` and the messages read these descriptions. A package
adds a backend by an entry point in the group ``rootcellar.backends``. The module of its description imports nothing but
this package, because it is imported by every command.
"""

from rootcellar.descriptions.description import (
    PLACEHOLDER,
    Advice,
    Architecture,
    BackendDescription,
    Project,
    Service,
    Variable,
    resolve,
)
from rootcellar.descriptions.postgres import POSTGRES
from rootcellar.descriptions.redis import REDIS
from rootcellar.descriptions.registry import (
    ENTRY_POINTS,
    OWN,
    backend_names,
    backend_of_name,
    backend_of_scheme,
    backends,
    names_that_keep_results,
    one_of,
    parts_of,
    with_parts,
)

__all__ = [
    "ENTRY_POINTS",
    "OWN",
    "PLACEHOLDER",
    "POSTGRES",
    "REDIS",
    "Advice",
    "Architecture",
    "BackendDescription",
    "Project",
    "Service",
    "Variable",
    "backend_names",
    "backend_of_name",
    "backend_of_scheme",
    "backends",
    "names_that_keep_results",
    "one_of",
    "parts_of",
    "resolve",
    "with_parts",
]

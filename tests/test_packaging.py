"""pyproject.toml declares what the code imports, and a worker loads no more than it needs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rootcellar

SOURCE = Path(rootcellar.__file__).parent
#: packages of the app; imported only if the app has loaded them
OF_THE_APP = {"numpy", "eventlet", "gevent"}
#: installed with the first, which decides the version
PARTS = {"pydantic-core": "pydantic"}
#: extra -> the modules that may import its distributions at their top
PLACES = {
    "psycopg": {"stores/postgres"},
    "pymysql": {"stores/mysql", "checks/mysql.py"},
    "redis": {"stores/redis"},
    "hiredis": {"stores/redis"},
    "pymongo": {"stores/mongodb", "checks/mongodb.py"},
    "pytest": {"testing"},
    "psutil": {"testing"},
}
NOT_IN_WORKERS = (
    *(
        "typer",
        "rich",
        "jinja2",
        "pydantic",
        "dotenv",
        "cryptography.hazmat",
        "fsspec",
        "numpy",
        "pytest",
        "psutil",
        "prometheus_client",
        "difflib",
    ),
    *("rootcellar.cli", "rootcellar.configuration", "rootcellar.metrics", "rootcellar.checks", "rootcellar.onboarding"),
    *("rootcellar.troubleshooting", "rootcellar.testing", "rootcellar.waiting.aio", "rootcellar.stores.hybrid"),
    *("rootcellar.stores.redis.cluster", "rootcellar.stores.redis.sentinel", "rootcellar.history"),
)
#: the drivers of the stores; a worker loads only that of its own store
DRIVERS = {"postgres": "psycopg", "redis": "redis", "mysql": "pymysql", "mongodb": "pymongo"}


def declared() -> dict[str, set[str]]:
    """Return the extras of each declared distribution; ``""`` is no extra."""
    found: dict[str, set[str]] = {}
    for line in requires("rootcellar") or []:
        requirement = Requirement(line)
        extra = re.search(r"extra == ['\"](\w+)['\"]", str(requirement.marker or ""))
        found.setdefault(canonicalize_name(requirement.name), set()).add(extra[1] if extra else "")
    return found


def imported() -> Iterator[tuple[str, str, bool]]:
    """Yield each import of a distribution: its name, the file, and whether it is at the top of the module."""
    distributions = packages_distributions()
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = {id(node) for node in tree.body}
        for node in ast.walk(tree):
            for module in _modules(node):
                name = module.partition(".")[0]
                if name not in sys.stdlib_module_names and name != "rootcellar":
                    (distribution,) = {canonicalize_name(each) for each in distributions[name]}
                    where = path.relative_to(SOURCE).as_posix()
                    yield PARTS.get(distribution, distribution), where, id(node) in top


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []


def test_every_import_is_declared() -> None:
    known, found = declared(), list(imported())
    assert {"celery", "psycopg", "typer"} <= {name for name, _, _ in found}, "the imports are found"
    users = {name for name, extras in known.items() if extras - {"dev", "all"}}
    assert {(name, where) for name, where, _ in found if name not in users | OF_THE_APP} == set()


def test_extra_is_imported_at_the_top_only_by_its_modules() -> None:
    known = declared()
    wrong = {
        (name, where)
        for name, where, is_at_top in imported()
        if is_at_top and "" not in known.get(name, set()) and not where.startswith(tuple(PLACES.get(name, {"nowhere"})))
    }
    assert wrong == set()


def test_every_dependency_and_extra_is_used() -> None:
    used = {name for name, _, _ in imported()}
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    # compression modules are imported by name
    by_name = {"backports-zstd": '"backports.zstd"', "brotli": '"brotli"'}
    used |= {name for name, quoted in by_name.items() if quoted in text}
    unused = {name for name, extras in declared().items() if extras - {"dev"} and name not in used | {"rootcellar"}}
    assert unused == set()


def test_extra_all_has_every_extra_except_those_for_tests() -> None:
    missing = {
        name for name, extras in declared().items() if extras - {"", "all", "dev", "testing"} and "all" not in extras
    }
    assert missing == set()


@pytest.mark.parametrize("system", ["postgres", "redis", "sqlite"])
def test_worker_loads_nothing_that_it_does_not_use(request: pytest.FixtureRequest, tmp_path: Path, system: str) -> None:
    url = f"sqlite:///{tmp_path}/x.sqlite3" if system == "sqlite" else request.getfixturevalue(f"{system}_url")
    unused = (*NOT_IN_WORKERS, *(driver for store, driver in DRIVERS.items() if store != system))
    program = f"""
import sys
import celery, rootcellar.backend.backend
app = celery.Celery(backend="rootcellar+" + sys.argv[1], set_as_current=False)
app.backend.store_result("one", 1, "SUCCESS")
assert app.AsyncResult("one").get(timeout=30) == 1
print("loaded:", *(name for name in {unused} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["loaded:"]

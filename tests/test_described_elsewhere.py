"""A made-up backend "foo" of another package is in every command, from its one description (`tests/foo`)."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tests.commands import Ended, execute, run

FOO = Path(__file__).parent / "foo"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder in which the package of foo is installed, as pip does it."""
    return Path(shutil.copytree(FOO, tmp_path / "site-packages", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def settings(installed: Path, tmp_path: Path) -> dict[str, str]:
    """An environment that chooses foo."""
    return {
        "PYTHONPATH": str(installed),
        "CELERY_BROKER": "memory://",
        "CELERY_RESULT_BACKEND": "foo",
        "FOO_PATH": str(tmp_path / "results.foo"),
        "FOO_PASSWORD": "not-to-be-shown",
    }


def run_ok(*args: str, env: dict[str, str]) -> Ended:
    ended = run(*args, env=env)
    assert ended.status == 0, ended
    assert "not-to-be-shown" not in ended.out + ended.err
    return ended


def test_settings_show_its_variables_and_its_url(settings: dict[str, str]) -> None:
    shown = json.loads(run_ok("settings", "--json", env={**settings, "FOO_IS_SLOW": "yes"}).out)
    assert {each["name"] for each in shown["variables"]} >= {"FOO_PATH", "FOO_PASSWORD", "FOO_IS_SLOW"}
    assert shown["celery"]["result_backend"].startswith("rootcellar+foo://:**@/")
    assert shown["celery"]["result_backend_transport_options"] == {"foo": {"is_slow": True}}
    assert shown["unused"] == shown["warnings"] == []


def test_settings_name_its_problems(settings: dict[str, str]) -> None:
    del settings["FOO_PATH"]
    ended = run("settings", env={**settings, "FOO_IS_SLOW": "yes"})
    assert ended.status == 1
    assert "FOO_PATH is missing: FOO_IS_SLOW needs it" in ended.err
    guess = run("settings", env={**settings, "FOO_PTAH": "x"})
    assert "if it was meant for it, write FOO_PATH" in guess.out


def test_settings_name_it_to_a_user_who_names_another(settings: dict[str, str]) -> None:
    ended = run("settings", env={**settings, "CELERY_RESULT_BACKEND": "fu"})
    assert ended.status == 1
    assert "rpc, foo, or a URL" in ended.err
    assert "did you mean foo?" in ended.err


def test_settings_name_its_package_if_its_driver_is_missing(settings: dict[str, str], installed: Path) -> None:
    (installed / "foo_driver.py").unlink()
    ended = run("settings", env=settings)
    assert ended.status == 1
    assert "the Python package foo_driver is not installed: pip install 'foo-backend'" in ended.err


def test_app_stores_in_it_with_its_own_options(settings: dict[str, str]) -> None:
    program = """
import celery, rootcellar
app = celery.Celery(set_as_current=False)
app.config_from_object(rootcellar.settings())
app.backend.store_result("one", 1, "SUCCESS")
print(type(app.backend.store).__name__, app.backend.store.is_slow, app.AsyncResult("one").get(timeout=60))
"""
    ended = execute([sys.executable, "-c", program], env={**settings, "FOO_IS_SLOW": "yes"})
    assert (ended.out, ended.err) == ("FooStore True 1\n", "")


@pytest.mark.parametrize("what", ["foo", "foodb", None])
def test_check_runs_its_checks_and_names_its_problem(settings: dict[str, str], what: str | None) -> None:
    report = json.loads(run_ok("check", *([what] if what else []), "--json", env=settings).out)
    (section,) = report["sections"]
    assert section["where"] == "Foo"
    seen = {each["check"]: each["status"] for each in section["findings"]}
    assert seen.pop("being") == "warning"
    assert report["first"]["code"] == "foo-made-up"
    assert {"store", "round trip", "expiry"} <= seen.keys()
    assert set(seen.values()) == {"ok"}


def test_check_of_its_url_runs_its_checks(settings: dict[str, str]) -> None:
    report = json.loads(run_ok("check", f"foo:///{settings['FOO_PATH']}", "--json", env=settings).out)
    assert report["first"]["code"] == "foo-made-up"


def test_explain_and_the_help_know_it(settings: dict[str, str]) -> None:
    assert "Choose another database." in run_ok("explain", "foo-made-up", env=settings).out
    assert "rpc or foo" in " ".join(run_ok("check", "--help", env=settings).out.split())
    assert "foo: a server of Foo" in " ".join(run_ok("recommend", "--help", env=settings).out.split())


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        (["--keep", "months"], "Results must last, and Foo runs already."),
        ([], "Foo runs already: results need no other server."),
    ],
)
def test_recommend_chooses_it_for_a_team_that_runs_it(settings: dict[str, str], needs: list[str], reason: str) -> None:
    found = json.loads(run_ok("recommend", "--runs", "foo", *needs, "--json", env=settings).out)
    assert found["backend"] == "foo"
    assert found["reasons"][0]["text"] == reason
    assert found["architecture"]["name"] == "Redis + Foo"
    assert found["variables"]["FOO_PATH"] == "results.foo"
    assert found["packages"] == ["foo-backend"]
    assert "Foo is made up." in found["cautions"]


def test_recommend_chooses_postgres_for_a_team_that_runs_both(settings: dict[str, str]) -> None:
    found = run_ok("recommend", "--runs", "foo", "--runs", "postgres", "--keep", "months", "--json", env=settings)
    assert json.loads(found.out)["backend"] == "postgres"


def test_init_writes_a_project_for_it(settings: dict[str, str], tmp_path: Path) -> None:
    project = tmp_path / "shop"
    run_ok("init", str(project), "--backend", "foo", env=settings)
    started = yaml.safe_load((project / "compose.yaml").read_text(encoding="utf-8"))
    assert started["services"].keys() == started["volumes"].keys() == {"redis", "foo"}
    assert (project / "foo.conf").read_text(encoding="utf-8") == "# Foo keeps all.\n"
    assert (project / "requirements.txt").read_text(encoding="utf-8") == "rootcellar[redis]\nfoo-backend\n"
    assert "FOO_PASSWORD=change-me" in (project / ".env.example").read_text(encoding="utf-8")
    assert "change-me" not in (project / ".env").read_text(encoding="utf-8")
    readme = (project / "README.md").read_text(encoding="utf-8")
    for words in ("Results are kept in Foo.", "| `foo.conf` | Foo: how much it keeps |", "Foo has no backup"):
        assert words in readme
    read = json.loads(run_ok("settings", "--json", "--env-file", str(project / ".env"), env=_without(settings)).out)
    assert read["celery"]["result_backend"].startswith("rootcellar+foo://")


def test_uninstalled_backend_is_in_no_command(settings: dict[str, str], installed: Path) -> None:
    shutil.rmtree(installed)
    for args, words in (
        (["settings"], "mongodb, rpc, or a URL"),
        (["check", "foo"], "must be one of"),
        (["recommend", "--runs", "foo"], "'foo' is not one of"),
        (["init", str(installed), "--backend", "foo"], "'foo' is not one of"),
    ):
        ended = run(*args, env=settings)
        assert ended.status != 0
        assert words in " ".join((ended.out + ended.err).split())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name="foo"', 'name="redis"', "ValueError: redis is taken by the backend redis"),
        ('schemes=("foo",)', 'schemes=("mysql",)', "ValueError: mysql is taken by the backend mysql"),
        ("DESCRIPTION =", "OTHER =", "AttributeError"),
        ("from __future__ import annotations\n", "import no_such_module\n", "no_such_module"),
    ],
)
def test_description_that_cannot_be_used_is_left_out_with_a_warning(
    settings: dict[str, str], installed: Path, old: str, new: str, words: str
) -> None:
    path = installed / "foo_backend/__init__.py"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    ended = run("settings", "--no-broker", env={**settings, "CELERY_RESULT_BACKEND": "sqlite"})
    assert ended.status == 0, ended
    assert "the backend foo of the package foo-backend cannot be used" in ended.err
    assert words in ended.err


@pytest.mark.parametrize(
    ("module", "command", "words"),
    [
        ("findings", ["explain", "tls-none"], "the findings of the backend foo cannot be read"),
        ("configuration", ["settings", "--no-broker"], "the variables of the backend foo cannot be read"),
    ],
)
def test_broken_module_of_a_backend_disturbs_no_other_one(
    settings: dict[str, str], installed: Path, module: str, command: list[str], words: str
) -> None:
    (installed / f"foo_backend/{module}.py").write_text("import no_such_module\n", encoding="utf-8")
    ended = run(*command, env={**settings, "CELERY_RESULT_BACKEND": "sqlite"})
    assert ended.status == 0, ended
    assert words in ended.err
    assert "no_such_module" in ended.err


def test_backend_that_combines_foo_with_another_has_the_variables_of_both(
    settings: dict[str, str], installed: Path
) -> None:
    path = installed / "foo_backend/__init__.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace('synonyms=("foodb",),', 'synonyms=("foodb",), combines=("sqlite",),', 1), encoding="utf-8"
    )
    shown = json.loads(run_ok("settings", "--json", env={**settings, "DB_PATH": "x.sqlite3"}).out)
    assert {each["name"] for each in shown["variables"]} >= {"FOO_PATH", "DB_PATH"}
    assert shown["unused"] == []


def test_module_inside_a_package_can_be_the_driver(settings: dict[str, str], installed: Path) -> None:
    path = installed / "foo_backend/__init__.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('driver="foo_driver"', 'driver="foo_drivers.fast"', 1), encoding="utf-8")
    ended = run("settings", env=settings)
    assert ended.status == 1
    assert "the Python package foo_drivers is not installed: pip install 'foo-backend'" in ended.err


def _without(settings: dict[str, str]) -> dict[str, str]:
    return {"PYTHONPATH": settings["PYTHONPATH"]}

"""The files of `rootcellar init` are valid and safe, and never overwrite existing files."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from dotenv import dotenv_values

from rootcellar.configuration import reading
from rootcellar.descriptions import PLACEHOLDER, backend_names
from rootcellar.errors import ConfigurationError, FilesInTheWay
from rootcellar.onboarding.project import write
from rootcellar.onboarding.project.writing import app_name
from rootcellar.onboarding.recommend import RedisForm, Setup
from rootcellar.onboarding.recommend.setup import BROKERS
from tests.commands import assert_one_line, execute, run_here, run_on_terminal
from tests.projects.helpers import Project
from tests.workers import ROOT

PAIRS = [
    (broker, backend) for broker in BROKERS for backend in backend_names() if (broker, backend) != ("redis", "rpc")
]
SETUPS = [
    *(Setup(broker, backend) for broker, backend in PAIRS),
    *(Setup(broker, backend, pgbouncer=True) for broker in BROKERS for backend in ("postgres", "hybrid")),
    *(Setup("redis", backend, redis=form) for backend in ("redis", "hybrid") for form in RedisForm),
    Setup("redis", "postgres", redis=RedisForm.SENTINEL, expires="never", extended=True, acks_late=True),
    *(Setup(broker, backend, tls=True) for broker, backend in PAIRS),
]


def test_every_compose_file_is_valid(tmp_path: Path) -> None:
    files = []
    for number, setup in enumerate(SETUPS):
        write(tmp_path / str(number), setup)
        files += [str(path) for path in (tmp_path / str(number)).glob("compose.yaml")]
    assert len(files) > 20
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = execute([*check, *files])
    assert done.status == 0, done
    broken = tmp_path / "broken.yaml"
    broken.write_text(Path(files[0]).read_text(encoding="utf-8").replace("image:", "imago:"), encoding="utf-8")
    assert execute([*check, str(broken)]).status == 1


def test_every_project_is_consistent(tmp_path: Path) -> None:
    for number, setup in enumerate(SETUPS):
        project = Project(tmp_path / str(number), setup)
        assert set(project.env) <= set(reading.names())
        example = dotenv_values(project.folder / ".env.example", interpolate=False)
        assert list(example) == list(project.env)
        for name, value in project.env.items():
            if name.endswith("PASSWORD"):
                assert example[name] == PLACEHOLDER
                continue
            assert example[name] == value
        for service in project.services.values():
            assert all(str(port).startswith("127.0.0.1:") for port in service["ports"])
            assert service["healthcheck"]["test"]
            for volume in service.get("volumes", ()):
                source = volume.partition(":")[0]
                assert not source.startswith(".") or (project.folder / source).is_file()
        readme = (project.folder / "README.md").read_text(encoding="utf-8")
        listed = set(re.findall(r"^\| `([^`]+)` \|", readme, re.MULTILINE))
        assert listed == {*project.written.files} - {"README.md", ".gitignore"}
        assert "\n\n\n" not in readme
        assert ("First write the addresses" in readme) == (PLACEHOLDER in project.env.values())
        for name in ("celeryconfig.py", "tasks.py", "use.py"):
            compile((project.folder / name).read_text(encoding="utf-8"), name, "exec")


def test_passwords_are_only_in_env(tmp_path: Path) -> None:
    project = Project(tmp_path / "shop", Setup("rabbitmq", "hybrid", pgbouncer=True))
    assert stat.S_IMODE((project.folder / ".env").stat().st_mode) == 0o600
    assert ".env" in (project.folder / ".gitignore").read_text(encoding="utf-8").splitlines()
    passwords = {value for name, value in project.env.items() if name.endswith("PASSWORD")}
    assert len(passwords) == 3
    for name in project.written.files:
        if name != ".env":
            text = (project.folder / name).read_text(encoding="utf-8")
            assert not any(password in text for password in passwords), name
    other = Project(tmp_path / "other", Setup("rabbitmq", "hybrid", pgbouncer=True))
    assert not passwords & set(other.env.values())


def test_env_is_never_readable_by_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write(tmp_path / "shop", Setup())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shop" / ".env").stat().st_mode) == 0o600


def test_existing_files_are_kept_without_force(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "tasks.py").write_text("mine")
    (folder / "notes.txt").write_text("mine too")
    ended = run_here("init", str(folder), "--backend", "postgres")
    assert_one_line(ended, "tasks.py is in the way", "nothing was written", "--force")
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "tasks.py"]
    assert (folder / "tasks.py").read_text() == "mine"
    ended = run_here("init", str(folder), "--backend", "postgres", "--force", "--json")
    assert ended.status == 0, ended
    assert json.loads(ended.out)["replaced"] == ["tasks.py"]
    assert "Celery(" in (folder / "tasks.py").read_text()
    assert (folder / "notes.txt").read_text() == "mine too"


def test_force_keeps_the_passwords(tmp_path: Path) -> None:
    first = Project(tmp_path / "shop", Setup("redis", "redis")).env
    write(tmp_path / "shop", Setup("redis", "hybrid"), force=True)
    second = dotenv_values(tmp_path / "shop" / ".env")
    assert second["REDIS_PASSWORD"] == first["REDIS_PASSWORD"]
    assert second["DB_PASSWORD"]


def test_existing_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / ".env").symlink_to(elsewhere)
    with pytest.raises(FilesInTheWay) as refused:
        write(folder, Setup())
    assert refused.value.files == (".env",)
    write(folder, Setup(), force=True)
    assert elsewhere.read_text() == "mine"
    assert not (folder / ".env").is_symlink()


def test_existing_folder_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "shop" / "compose.yaml").mkdir(parents=True)
    with pytest.raises(FilesInTheWay, match=r"compose\.yaml is in the way"):
        write(tmp_path / "shop", Setup(), force=True)
    assert [path.name for path in (tmp_path / "shop").iterdir()] == ["compose.yaml"]


def test_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write(tmp_path / "file" / "shop", Setup())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--backend", "rpc", "--broker", "redis"), "messages of RabbitMQ"),
        (("--backend", "redis", "--pgbouncer"), "PgBouncer works only in front of PostgreSQL"),
    ],
)
def test_incompatible_choices_write_nothing(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    assert_one_line(run_here("init", str(tmp_path / "shop"), *options), words)
    assert not (tmp_path / "shop").exists()


def test_invalid_duration_is_wrong_use(tmp_path: Path) -> None:
    ended = run_here("init", str(tmp_path / "shop"), "--backend", "postgres", "--expires", "soon")
    assert ended.status == 2
    assert "`" not in ended.err


def test_init_asks_on_a_terminal(tmp_path: Path) -> None:
    ended = run_on_terminal("init", str(tmp_path / "shop"), typed="100\nonce\nsender\n\nresults\n")
    assert ended.status == 0, ended.out
    assert "Broker rabbitmq, result backend rpc" in ended.out


def test_init_uses_the_default_without_a_terminal(tmp_path: Path) -> None:
    ended = run_here("init", str(tmp_path / "shop"))
    assert "Broker redis, result backend postgres" in ended.out


@pytest.mark.parametrize(
    ("folder", "name"), [("shop", "shop"), ("My-Shop 2", "my_shop_2"), ("2nd", "app_2nd"), ("---", "app"), ("é", "app")]
)
def test_app_name_is_made_from_the_folder(folder: str, name: str) -> None:
    assert app_name(Path(folder)) == name
    assert name.isidentifier()


def test_wheel_has_the_templates_and_the_figures(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("onboarding/project/templates", "onboarding/recommend"):
        here = ROOT / "src/rootcellar" / folder
        assert {f"rootcellar/{folder}/{path.name}" for path in here.iterdir() if path.is_file()} <= names

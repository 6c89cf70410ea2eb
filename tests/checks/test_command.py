"""The command ``rootcellar check``: what it chooses, prints and returns."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import rootcellar.checks
from rootcellar.checks import GROUPS, Level, all_problems
from rootcellar.checks.register import registered_problem
from tests.commands import environment, execute, run, run_here, run_on_terminal
from tests.servers import HOST, IN_URL, PASSWORD, PostgresServer, RedisServer

ROOT = Path(rootcellar.checks.__file__).parent


class TestWhatIsChecked:
    def test_check_without_a_target_is_wrong_use(self, tmp_path: Path) -> None:
        ended = run("check", cwd=tmp_path)
        assert (ended.status, ended.out) == (2, "")
        assert "CELERY_RESULT_BACKEND" in ended.err

    @pytest.mark.parametrize(
        "args", [["bogus"], ["redis", "-A", "shop"], ["sqlite:///x", "-A", "shop"], ["--processes", "0"]]
    )
    def test_wrong_use_of_check_is_refused(self, args: list[str]) -> None:
        ended = run_here("check", *args)
        assert (ended.status, ended.out) == (2, "")

    def test_check_uses_the_environments_backend_by_default(self, tmp_path: Path) -> None:
        ended = run("check", cwd=tmp_path, env={"CELERY_RESULT_BACKEND": "sqlite", "DB_PATH": "here.sqlite3"})
        assert ended.status == 0
        assert "here.sqlite3" in ended.out
        assert ended.out.endswith("All is well.\n")

    def test_name_is_checked_with_the_environments_variables(self, tmp_path: Path, redis_server: RedisServer) -> None:
        (tmp_path / ".env").write_text(
            f"CELERY_BROKER=redis\nCELERY_RESULT_BACKEND=sqlite\nREDIS_PORT={redis_server.port}\nREDIS_DB=7100\n"
        )
        ended = run("check", "redis", cwd=tmp_path)
        assert ended.status == 0
        assert f"redis 127.0.0.1:{redis_server.port}/7100" in ended.out.replace("localhost", HOST)

    def test_check_all_checks_the_broker_and_both_stores(
        self, tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer
    ) -> None:
        """The broker, and both parts of the hybrid."""
        url = postgres_server.create_database()
        env = {
            "CELERY_BROKER": "redis",
            "CELERY_RESULT_BACKEND": "hybrid",
            "REDIS_HOST": HOST,
            "REDIS_PORT": str(redis_server.port),
            "DB_HOST": HOST,
            "DB_PORT": str(postgres_server.port),
            "DB_USER": "postgres",
            "DB_PASSWORD": PASSWORD,
            "DB_NAME": url.rpartition("/")[2],
        }
        ended = run("check", "all", "--json", cwd=tmp_path, env=env)
        found = json.loads(ended.out)
        assert ended.status == 0, ended
        assert [section["where"].partition(" ")[0] for section in found["sections"]] == [
            "redis",
            "postgresql",
            "redis",
            "postgresql",
        ]
        assert found["first"]["code"] == "broker-persistence"

    def test_every_wrong_setting_is_reported(self, tmp_path: Path) -> None:
        ended = run("check", cwd=tmp_path, env={"CELERY_RESULT_BACKEND": "postgres", "DB_PORT": "x", "DB_USR": "y"})
        assert ended.status == 1
        assert ended.out.count("WARN") == 1
        assert ended.out.count("FAIL") == 1
        assert "DB_PORT" in ended.out
        assert "DB_USER" in ended.out

    def test_wrong_setting_of_an_app_is_reported(self, tmp_path: Path) -> None:
        (tmp_path / "shop.py").write_text(
            "from celery import Celery\n"
            "app = Celery('shop', broker='memory://', backend='rootcellar+sqlite:///shop.sqlite3')\n"
            "app.conf.result_serializer = 'yaml'\napp.conf.result_accept_content = ['json']\n"
        )
        ended = run("check", "-A", "shop", cwd=tmp_path)
        assert ended.status == 1
        assert "application/x-yaml, which is not accepted (settings-wrong)" in ended.out
        assert run("check", "broker", "-A", "shop", cwd=tmp_path).status == 0

    def test_missing_driver_is_reported(self) -> None:
        program = "import sys; sys.argv[0] = 'rootcellar'; sys.modules['psycopg'] = None; "
        program += "from rootcellar.cli import main; main()"
        import sys

        ended = execute([sys.executable, "-c", program, "check", "postgresql://localhost/x"], env=environment())
        assert ended.status == 1
        assert "(driver-missing)" in ended.out
        assert "pip install 'rootcellar[postgres]'" in ended.out


class TestWhatIsPrinted:
    def test_last_line_says_what_to_fix_first(self, postgres_server: PostgresServer) -> None:
        ended = run_here("check", postgres_server.url.replace(IN_URL, "wrong"))
        assert ended.status == 1
        assert ended.err == ""
        last = ended.out.splitlines()[-1]
        assert last.startswith(
            "Fix this first: the server refused the user or the password: password authentication failed"
        )
        assert "skipped" in ended.out
        assert ended.out.count("FAIL") == 1

    @pytest.mark.parametrize("columns", [60, 80, 120])
    def test_report_fits_the_terminal(self, postgres_server: PostgresServer, columns: int) -> None:
        ended = run_on_terminal("check", postgres_server.url.replace(IN_URL, "wrong"), columns=columns)
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", ended.out)
        assert max(len(line) for line in re.split(r"[\r\n]", plain)) <= columns

    def test_json_has_every_finding(self, postgres_server: PostgresServer) -> None:
        ended = run_here("check", postgres_server.url.replace(IN_URL, "wrong"), "--json")
        found = json.loads(ended.out)
        assert (ended.status, found["status"], found["first"]["code"]) == (1, "failure", "authentication-failed")
        (section,) = found["sections"]
        statuses = {each["check"]: each["status"] for each in section["findings"]}
        assert (statuses["tcp"], statuses["login"], statuses["latency"]) == ("ok", "failure", "skipped")
        assert found["first"]["why"]
        assert found["first"]["remedy"]

    def test_interrupted_check_leaves_nothing(self, postgres_server: PostgresServer, postgres_url: str) -> None:
        import signal
        import subprocess
        import time

        from tests.commands import command

        with subprocess.Popen(command("check", postgres_url), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "round trip" in line:
                    break
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        time.sleep(0)
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        assert postgres_server.execute(tables, postgres_url.rpartition("/")[2]) == []


class TestTheRegister:
    def test_every_problem_has_a_reason_and_a_remedy(self) -> None:
        for entry in all_problems():
            assert re.fullmatch(r"[a-z]+(-[a-z]+)+", entry.code)
            assert entry.level in (Level.WARNING, Level.FAILURE)
            assert entry.why.endswith("."), entry.code
            assert entry.remedy.endswith("."), entry.code
            assert not entry.title.endswith("."), entry.code

    def test_problem_names_are_unique(self) -> None:
        codes = [entry.code for _, problems in GROUPS for entry in problems]
        assert len(codes) == len(set(codes))

    def test_every_registered_name_is_used(self) -> None:
        texts = set()
        for path in ROOT.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.add(node.value)
        # the code makes these from the system's name
        made = {f"{kind}-{what}" for kind in ("postgres", "mysql", "redis") for what in ("too-few-connections",)}
        made |= {"postgres-connections", "mysql-connections"}
        unused = {entry.code for entry in all_problems()} - texts - made
        assert unused == set()

    def test_unregistered_name_is_an_error(self) -> None:
        with pytest.raises(KeyError):
            registered_problem("no.such")

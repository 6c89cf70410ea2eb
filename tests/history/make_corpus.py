"""Makes the corpus of real tracebacks: real workers of several Pythons run ``shop/``, deployed in two ways.

``python -m tests.history.make_corpus FOLDER PYTHON…`` creates a virtual environment of each Python in FOLDER (or uses
the one that is there), with this package, SQLAlchemy and requests, and writes ``corpus/VERSION.jsonl``. For example::

    python -m tests.history.make_corpus /tmp/corpus python3.10 python3.11 python3.12 python3.13

Each line is a failure as the worker stored it: the group into which it belongs (a name in ``shop/tasks.py``), the
deployment, the worker, the folder of its modules, the task, the exception, the traceback, and the number that the
worker computed. The second deployment has another folder, another worker and moved lines.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DEPLOYMENTS = {"first": "srv/first", "second": "opt/releases/20261101/app"}
SECONDS = 120

#: runs in the client's process of a deployment: prints each failure as JSON
CLIENT = """
import json, sys
from shop.tasks import app, run_all
for group, task_id in run_all({seconds}):
    record = app.backend.store.get(task_id)
    line = {{
        "group": group,
        "task": record.name,
        "worker": record.worker,
        "failure": json.loads(record.result.body),
        "traceback": record.traceback,
        "number": record.failure_group,
    }}
    print(json.dumps(line))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where environments and deployments are created")
    parser.add_argument("python", nargs="+", help="an interpreter")
    given = parser.parse_args()
    for python in given.python:
        environment = _environment(given.folder.resolve(), python)
        version = environment.name.removeprefix("python")
        lines: list[str] = []
        for name, place in DEPLOYMENTS.items():
            lines += _failures(environment, given.folder.resolve() / version / place, name)
        target = HERE / "corpus" / f"{version}.jsonl"
        target.parent.mkdir(exist_ok=True)
        target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(f"{target.name}: {len(lines)} failures")


def _environment(folder: Path, python: str) -> Path:
    """Return the virtual environment of an interpreter."""
    program = "import sys; print('{}.{}'.format(*sys.version_info))"
    version = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    environment = folder / f"python{version}"
    if not environment.is_dir():
        subprocess.run([python, "-m", "venv", str(environment)], check=True)
    packages = ["celery", "sqlalchemy", "requests", "exceptiongroup", str(ROOT)]
    subprocess.run([f"{environment}/bin/python", "-m", "pip", "install", "--quiet", *packages], check=True)
    return environment


def _failures(environment: Path, folder: Path, name: str) -> list[str]:
    """Deploy the application, run a worker and every task, and return the lines of the corpus."""
    shutil.rmtree(folder, ignore_errors=True)
    _deploy(folder, is_moved=name == "second")
    state = folder.parent / f"{folder.name}-state"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    env = {**os.environ, "SHOP_FOLDER": str(state), "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [f"{environment}/bin/python", "-m", "celery", "-A", "shop.celery"]
    command += ["worker", "-c", "1", "-n", f"{name}@shop", "--without-gossip", "--without-mingle"]
    with (state / "worker.log").open("w") as log:
        worker = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        time.sleep(1)
        client = [f"{environment}/bin/python", "-c", CLIENT.format(seconds=SECONDS)]
        done = subprocess.run(client, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=True)
    finally:
        worker.terminate()
        worker.wait(SECONDS)
    about = {"python": environment.name.removeprefix("python"), "deployment": name, "folder": str(folder)}
    return [json.dumps({**about, **json.loads(line)}, sort_keys=True) for line in done.stdout.splitlines()]


def _deploy(folder: Path, *, is_moved: bool) -> None:
    """Copy the application; with ``is_moved``, every line is at another place."""
    target = folder / "shop"
    shutil.copytree(HERE / "shop", target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "broken.py.txt").rename(target / "broken.py")
    if is_moved:
        for path in target.glob("*.py"):
            text = path.read_text(encoding="utf-8")
            text = re.sub(r"^(?=(?:async )?def |class |@)", "# moved\n\n", text, flags=re.MULTILINE)
            path.write_text(f"# a later version\n\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

"""MariaDB is killed and restarted while eight worker processes run tasks: every result is stored and correct."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults.helpers import Cluster
from tests.faults.test_outages import Crowd
from tests.helpers import wait_until
from tests.mariadb_server import MariaDBServer
from tests.servers import RedisServer


def test_results_survive_a_kill_during_tasks_of_eight_processes(
    new_mysql: Callable[..., MariaDBServer], new_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    server = new_mysql()
    cluster = Cluster(tmp_path, new_redis().url, server.create_database(), task_acks_late=True, task_track_started=True)
    cluster.create_tables()
    workers = [cluster.worker(concurrency=4), cluster.worker(concurrency=4)]
    with cluster.workers(*workers):
        children = [worker.children() for worker in workers]
        crowd = Crowd(cluster)
        assert crowd.a_third_is_done.wait(40), "a third of the tasks is done"
        server.kill()
        wait_until(
            lambda: any("Could not store" in worker.log.read_text() for worker in workers), "a failed attempt", 60
        )
        server.start()
        crowd.check(cluster)
        logs = [worker.log.read_text() for worker in workers]
        for log in logs:
            assert "Deadlock" not in log
            assert "Lock wait" not in log
        assert [worker.children() for worker in workers] == children, "no process was replaced"
        assert cluster.task("square").delay(4).get(timeout=20) == {"number": 4, "square": 16}

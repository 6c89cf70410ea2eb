"""Checks MongoDB."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

from pymongo import errors as mongo
from pymongo.uri_parser import parse_uri

from rootcellar import errors
from rootcellar.backend import ResultBackend
from rootcellar.checks.findings import Finding
from rootcellar.checks.measures import judge_clock
from rootcellar.checks.network import Host, ServerChecks, verify_peer
from rootcellar.checks.steps import Step, passed, problem
from rootcellar.checks.target import Target
from rootcellar.checks.trial import PREFIX, Trial
from rootcellar.stores.mongodb import driver
from rootcellar.stores.mongodb.driver import Document
from rootcellar.stores.urls import read_url

_OLDEST_VERSION = (4, 2)
_CODES_OF_REFUSED_RIGHTS = (13, 8000)
#: the store has one collection with each of these suffixes
_COLLECTION_SUFFIXES = ("", "_chords", "_parts")


class MongoChecks(ServerChecks):
    """MongoDB, one server or a replica set."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._settings = driver.read_settings(target.url, target.options)
        self._clients = driver.Clients(self._settings)
        hosts = self._settings.hosts
        self._uri = hosts if isinstance(hosts, str) else "mongodb://" + ",".join(hosts)
        self._hello: Mapping[str, Any] = {}
        self._test_collection = ""
        self._trial = Trial(self._backend)

    @property
    def where(self) -> str:
        return self._settings.where

    def steps(self) -> Sequence[Step]:
        return [
            *self.connection_steps(),
            Step("server", self._server, stops_on_failure=True),
            Step("clock", self._clock),
            Step("write concern", self._write_concern),
            Step("ttl", self._ttl),
            Step("rights", self._rights, stops_on_failure=True),
            *self._trial.steps(),
        ]

    def close(self) -> None:
        self._trial.close()
        if self._test_collection:
            names = [f"{self._test_collection}{end}" for end in _COLLECTION_SUFFIXES] + [
                f"{self._test_collection}_group"
            ]
            with suppress(mongo.PyMongoError), self._clients.client() as client:
                for name in names:
                    client[self._settings.database].drop_collection(name)
        self._clients.close()

    def understand(self, exc: Exception) -> errors.RootcellarError | None:
        return driver.translate(exc, self.where) if isinstance(exc, mongo.PyMongoError) else None

    # -- the connection

    @property
    def hosts(self) -> Sequence[Host]:
        if self._uri.startswith("mongodb+srv"):
            try:
                return [(str(host), int(port or 27017)) for host, port in parse_uri(self._uri)["nodelist"]]
            except (mongo.PyMongoError, ValueError):
                return [(host, 27017) for host, _ in read_url(self._uri, driver.URL_FORM).hosts]
        nodes = parse_uri(self._uri)["nodelist"]
        return [(str(host), int(port or 27017)) for host, port in nodes if not str(host).endswith(".sock")]

    @property
    def socket_path(self) -> str:
        return str(parse_uri(self._uri)["nodelist"][0][0])

    @property
    def service(self) -> str:
        return "MongoDB"

    @property
    def wants_tls(self) -> bool:
        return bool(self._option("tls") or self._option("ssl"))

    @property
    def is_verified(self) -> bool:
        return not (self._option("tlsInsecure") or self._option("tlsAllowInvalidCertificates"))

    def client_certificate(self) -> tuple[str, str] | None:
        ours = self._option("tlsCertificateKeyFile")
        return (str(ours), str(ours)) if ours else None

    def log_in(self) -> str:
        if self.wants_tls and self.is_verified:
            # the driver does not report what is wrong with a certificate
            checks_name = not self._option("tlsAllowInvalidHostnames")
            authority, ours = self._option("tlsCAFile"), self.client_certificate()
            host, port = self.hosts[0]
            verify_peer(host, port, self.where, authority=authority, ours=ours, checks_name=checks_name)
        with driver.translated(self.where), self._clients.client() as client:
            self._hello = client.admin.command("hello")
            client[self._settings.database].command("ping")
        return str(self._settings.client.get("username") or parse_uri(self._uri)["username"] or "")

    def _option(self, name: str) -> Any:
        given = {key.lower(): value for key, value in self._settings.client.items()}
        in_uri = {key.lower(): value for key, value in parse_uri(self._uri)["options"].items()}
        return given.get(name.lower(), in_uri.get(name.lower()))

    # -- steps

    def _server(self) -> Iterator[Finding]:
        with self._clients.client() as client:
            version = str(client.server_info()["version"])
        if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _OLDEST_VERSION:
            yield problem("server-too-old", f"MongoDB {version}")
        elif not (self._hello.get("isWritablePrimary") or self._hello.get("ismaster")):
            yield problem("mongodb-no-primary", "the server is not the primary, and knows no primary")
        elif not self._hello.get("setName") and self._hello.get("msg") != "isdbgrid":
            yield problem("mongodb-standalone", f"MongoDB {version}, without a replica set")
        else:
            yield passed(f"MongoDB {version}, replica set {self._hello.get('setName', '(sharded)')}")

    def _clock(self) -> Iterator[Finding]:
        def ask() -> datetime:
            with self._clients.client() as client:
                moment: datetime = client.admin.command("hello")["localTime"]
            return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)

        yield judge_clock(ask)

    def _write_concern(self) -> Iterator[Finding]:
        with self._clients.client() as client:
            concern = client.write_concern.document
        if concern.get("w", 1) in (0, 1) and self._hello.get("setName"):
            yield problem("mongodb-write-concern", f"w is {concern.get('w', 1)}")
        else:
            yield passed(f"w is {concern.get('w', 1)}, journal {'on' if concern.get('j') else 'off'}")

    def _ttl(self) -> Iterator[Finding]:
        try:
            with self._clients.client() as client:
                answer = client.admin.command("getParameter", 1, ttlMonitorEnabled=1)
        except mongo.OperationFailure:
            yield passed("the user may not read the parameter")
            return
        if answer.get("ttlMonitorEnabled", True):
            yield passed("the monitor runs")
        else:
            yield problem("mongodb-ttl-monitor", "ttlMonitorEnabled is false")

    def _rights(self) -> Iterator[Finding]:
        with self._clients.client() as client:
            missing = self._missing_rights(client[self._settings.database])
        if missing:
            yield problem(
                "permission-denied",
                f"the user may not {', '.join(missing)} in {self._settings.database}",
                "grant the user the role readWrite on the database",
            )
        else:
            yield passed(
                "find, insert, update, remove" + ("; tried on test collections" if self._test_collection else "")
            )

    def _missing_rights(self, database: Any) -> list[str]:
        """Try every right: on the collection of tasks if it has our index, else on a test one."""
        missing: list[str] = []
        name = self._settings.task_collection
        if _is_allowed(lambda: database[name].find_one({"_id": PREFIX}), "find", missing):
            known = database[name].index_information() if name in database.list_collection_names() else {}
            if not any(index["key"] == [("expires_at", 1)] for index in known.values()):
                self._test_collection = name = f"rootcellar_check_{uuid4().hex[:8]}"
        collection, one = database[name], f"{PREFIX}{uuid4().hex[:12]}"
        document: Document = {"_id": one, "expires_at": datetime.now(timezone.utc)}
        _is_allowed(lambda: collection.insert_one(document), "insert", missing)
        _is_allowed(lambda: collection.update_one({"_id": one}, {"$set": {"status": "x"}}), "update", missing)
        _is_allowed(lambda: collection.delete_one({"_id": one}), "remove", missing)
        return missing

    def _backend(self) -> ResultBackend:
        if not self._test_collection:
            return self._target.backend()
        given = dict(self._target.options.section("mongodb"))
        names = {"taskmeta_collection": self._test_collection, "groupmeta_collection": f"{self._test_collection}_group"}
        return self._target.backend(mongodb_backend_settings={**given, **names})


def _is_allowed(work: Any, right: str, missing: list[str]) -> bool:
    try:
        work()
    except mongo.OperationFailure as exc:
        if exc.code not in _CODES_OF_REFUSED_RIGHTS:
            raise
        missing.append(right)
        return False
    return True


#: what :mod:`rootcellar.checks.choosing` calls
checks = MongoChecks

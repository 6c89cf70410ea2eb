"""How the tasks of the shop fail: exceptions, and tracebacks as Celery stores them, of several depths."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

from benchmarks.history.catalogue import Task
from rootcellar.history.grouping.grouping import Grouper
from rootcellar.history.grouping.in_app import Application

_SITE = "/srv/shop/venv/lib/python3.11/site-packages"
_LIBRARY = "/usr/lib/python3.11"
_GROUPER = Grouper(Application())
#: replaced by the message in a traceback
_MESSAGE = "\x01"
_CAUSED = "\n\nThe above exception was the direct cause of the following exception:\n\n"
_DURING = "\n\nDuring handling of the above exception, another exception occurred:\n\n"

#: a frame: path (``@`` begins a path in the application), line, function and source
Frame = tuple[str, int, str, str]

_CELERY: tuple[Frame, ...] = (
    (f"{_SITE}/celery/app/trace.py", 477, "trace_task", "R = retval = fun(*args, **kwargs)"),
    (f"{_SITE}/celery/app/trace.py", 760, "__protected_call__", "return self.run(*args, **kwargs)"),
)
_OWN: Frame = ("@own", 41, "@own", "return run(*args, **kwargs)")
_HTTP: tuple[Frame, ...] = (
    ("@shop/http.py", 88, "post", "answer = session.post(url, json=body, timeout=TIMEOUT)"),
    (f"{_SITE}/requests/sessions.py", 637, "post", 'return self.request("POST", url, data=data, json=json, **kwargs)'),
    (f"{_SITE}/requests/sessions.py", 589, "request", "resp = self.send(prep, **send_kwargs)"),
    (f"{_SITE}/requests/sessions.py", 703, "send", "r = adapter.send(request, **kwargs)"),
)
_URLLIB: tuple[Frame, ...] = (
    (f"{_SITE}/urllib3/connectionpool.py", 787, "urlopen", "response = self._make_request("),
    (f"{_SITE}/urllib3/connectionpool.py", 534, "_make_request", "response = conn.getresponse()"),
    (f"{_SITE}/urllib3/connection.py", 516, "getresponse", "httplib_response = super().getresponse()"),
    (f"{_LIBRARY}/http/client.py", 1386, "getresponse", "response.begin()"),
    (f"{_LIBRARY}/http/client.py", 325, "begin", "version, status, reason = self._read_status()"),
    (f"{_LIBRARY}/socket.py", 706, "readinto", "return self._sock.recv_into(b)"),
)
_DATABASE: tuple[Frame, ...] = (
    ("@shop/database.py", 63, "save", "session.commit()"),
    (f"{_SITE}/sqlalchemy/orm/session.py", 2032, "commit", "trans.commit(_to_root=True)"),
    (f"{_SITE}/sqlalchemy/engine/base.py", 1967, "_exec_single_context", "self.dialect.do_execute("),
    (f"{_SITE}/sqlalchemy/engine/default.py", 941, "do_execute", "cursor.execute(statement, parameters)"),
    (f"{_SITE}/psycopg/cursor.py", 97, "execute", "raise ex.with_traceback(None)"),
)


@dataclass(frozen=True, slots=True)
class Block:
    """One traceback of a chain of exceptions.

    Attributes:
        frames: its frames below those of Celery and of the task.
        line: its last line, if it is not that of the failure itself.
        repeated: how often the last frame is repeated.
        link: the text between this block and the next one.
    """

    frames: tuple[Frame, ...]
    line: str = ""
    repeated: int = 0
    link: str = _CAUSED


@dataclass(frozen=True, slots=True)
class Failure:
    """A way to fail.

    Attributes:
        type, module: the class of the exception.
        message: a template of its message, with ``%(n)d`` and ``%(m)d`` as in the catalogue.
        blocks: its tracebacks; the last one is that of the failure itself.
        begins, ends: the part of the period in which it happens, as shares of it.
        is_inside: whether the traceback goes through the application.
    """

    type: str
    module: str
    message: str
    blocks: tuple[Block, ...]
    begins: float = 0.0
    ends: float = 1.0
    is_inside: bool = True

    @property
    def last_line(self) -> str:
        """The template of the last line of the traceback."""
        prefix = "" if self.module == "builtins" else f"{self.module}."
        return f"{prefix}{self.type}: {self.message}"

    def result(self, numbers: dict[str, int]) -> str:
        """Return the JSON text of the exception, as it is stored."""
        described = {"exc_type": self.type, "exc_message": [self.message % numbers], "exc_module": self.module}
        return json.dumps(described)

    def traceback(self, task: Task, release: str, line_shift: int, numbers: dict[str, int]) -> str:
        """Return the text of the traceback.

        Args:
            task: the failed task.
            release: the name of the folder that holds the application.
            line_shift: how many lines the deployed version moved the application's code.
            numbers: the numbers of the message.
        """
        return _traceback(self, task, release, line_shift).replace(_MESSAGE, self.last_line % numbers)


@cache
def _traceback(failure: Failure, task: Task, release: str, line_shift: int) -> str:
    """Return the text of a traceback with :data:`_MESSAGE` in the place of its last line."""
    text = ""
    for number, block in enumerate(failure.blocks, 1):
        frames = (*_CELERY, *((_OWN,) if failure.is_inside else ()), *block.frames)
        lines = ["Traceback (most recent call last):"]
        for path, line, function, source in frames:
            place, name, at = path, function, line
            if path.startswith("@"):
                place = f"/srv/shop/releases/{release}/{task.path if path == '@own' else path[1:]}"
                name = task.function if function == "@own" else function
                at = line + line_shift
            lines += [f'  File "{place}", line {at}, in {name}', f"    {source}"]
        if block.repeated:
            lines.append(f"  [Previous line repeated {block.repeated} more times]")
        is_last = number == len(failure.blocks)
        text += "\n".join([*lines, _MESSAGE if is_last else block.line]) + ("\n" if is_last else block.link)
    return text


TIMEOUT = Failure(
    "ReadTimeout",
    "requests.exceptions",
    "HTTPSConnectionPool(host='api%(m)d.example.com', port=443): Read timed out. (read timeout=10)",
    (
        Block(_HTTP[:1] + _URLLIB, "TimeoutError: The read operation timed out"),
        Block(
            (*_HTTP, (f"{_SITE}/requests/adapters.py", 667, "send", "resp = conn.urlopen(")),
            "urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool: Read timed out. (read timeout=10)",
            link=_DURING,
        ),
        Block((*_HTTP, (f"{_SITE}/requests/adapters.py", 713, "send", "raise ReadTimeout(e, request=request)"))),
    ),
)
HTTP_500 = Failure(
    "HTTPError",
    "requests.exceptions",
    "503 Server Error: Service Unavailable for url: https://api.example.com/v2/items/%(n)d",
    (
        Block(
            (
                ("@shop/http.py", 92, "post", "answer.raise_for_status()"),
                (
                    f"{_SITE}/requests/models.py",
                    1024,
                    "raise_for_status",
                    "raise HTTPError(msg, response=self)",
                ),
            )
        ),
    ),
)
MISSING_KEY = Failure(
    "KeyError", "builtins", "'sku'", (Block((("@shop/parsing.py", 57, "read_line", 'sku = line["sku"]'),)),)
)
BAD_VALUE = Failure(
    "ValueError",
    "builtins",
    "amount of order %(n)d is negative: -%(m)d",
    (
        Block(
            (
                ("@shop/orders/amounts.py", 18, "total_of", "return sum(map(amount_of, order.lines))"),
                ("@shop/orders/amounts.py", 31, "amount_of", "raise ValueError(message)"),
            )
        ),
    ),
)
TOO_DEEP = Failure(
    "RecursionError",
    "builtins",
    "maximum recursion depth exceeded",
    (
        Block(
            (
                ("@shop/catalogue/tree.py", 12, "walk", "for child in node.children:"),
                ("@shop/catalogue/tree.py", 14, "walk", "yield from walk(child)"),
            ),
            repeated=970,
        ),
    ),
)
TWICE = Failure(
    "IntegrityError",
    "sqlalchemy.exc",
    '(psycopg.errors.UniqueViolation) duplicate key value violates unique constraint "product_pkey"\n'
    "DETAIL:  Key (id)=(%(n)d) already exists.\n[SQL: INSERT INTO product (id) VALUES (%%(id)s)]",
    (
        Block(_DATABASE, "psycopg.errors.UniqueViolation: duplicate key value violates unique constraint"),
        Block(_DATABASE[:3]),
    ),
)
NO_DATABASE = Failure(
    "OperationalError",
    "sqlalchemy.exc",
    '(psycopg.OperationalError) connection failed: connection to server at "10.0.3.%(m)d", port 5432 failed: '
    "Connection refused\n(Background on this error at: https://sqlalche.me/e/20/e3q8)",
    (
        Block(
            (*_DATABASE[:1], (f"{_SITE}/psycopg/connection.py", 117, "connect", "raise last_ex.with_traceback(None)")),
            "psycopg.OperationalError: connection failed: Connection refused",
        ),
        Block(_DATABASE[:3]),
    ),
)
TOO_SLOW = Failure(
    "SoftTimeLimitExceeded",
    "billiard.exceptions",
    "SoftTimeLimitExceeded()",
    (
        Block(
            (
                ("@shop/catalogue/render.py", 140, "render", "time_left = budget.left()"),
                (f"{_SITE}/billiard/pool.py", 229, "soft_timeout_sighandler", "raise SoftTimeLimitExceeded()"),
            )
        ),
    ),
)
WORKER_LOST = Failure(
    "WorkerLostError",
    "billiard.exceptions",
    "Worker exited prematurely: signal 9 (SIGKILL) Job: %(n)d.",
    (
        Block(
            (
                (
                    f"{_SITE}/billiard/pool.py",
                    1264,
                    "mark_as_worker_lost",
                    "raise WorkerLostError(",
                ),
            )
        ),
    ),
    is_inside=False,
)
BAD_TEXT = Failure(
    "UnicodeDecodeError",
    "builtins",
    "'utf-8' codec can't decode byte 0xe9 in position %(n)d: invalid continuation byte",
    (
        Block(
            (
                ("@shop/imports/feeds.py", 77, "lines_of", "text = body.decode()"),
                (
                    "<frozen codecs>",
                    322,
                    "decode",
                    "(result, consumed) = self._buffer_decode(data, self.errors)",
                ),
            )
        ),
    ),
)
REFUSED_MAIL = Failure(
    "SMTPRecipientsRefused",
    "smtplib",
    "{'user%(n)d@example.com': (550, b'5.1.1 unknown recipient')}",
    (
        Block(
            (
                ("@shop/mail/sending.py", 33, "send", "server.send_message(message)"),
                (f"{_LIBRARY}/smtplib.py", 986, "send_message", "return self.sendmail(from_addr, to_addrs, flatmsg)"),
                (f"{_LIBRARY}/smtplib.py", 901, "sendmail", "raise SMTPRecipientsRefused(senderrs)"),
            )
        ),
    ),
)
FULL_DISK = Failure(
    "OSError",
    "builtins",
    "[Errno 28] No space left on device: '/exports/%(n)d.csv'",
    (Block((("@shop/files.py", 21, "write", "file.write(chunk)"),)),),
    begins=0.45,
    ends=0.5,
)
BAD_IMAGE = Failure(
    "UnidentifiedImageError",
    "PIL",
    "cannot identify image file '/images/%(n)d.heic'",
    (
        Block(
            (
                ("@shop/images/open.py", 15, "opened", "return Image.open(path)"),
                (f"{_SITE}/PIL/Image.py", 3532, "open", "raise UnidentifiedImageError(msg)"),
            )
        ),
    ),
)
#: ends in the first third of the period
GONE = Failure(
    "JSONDecodeError",
    "json.decoder",
    "Expecting value: line 1 column 1 (char 0)",
    (
        Block(
            (
                ("@shop/http.py", 97, "post", "return json.loads(answer.text)"),
                (f"{_LIBRARY}/json/__init__.py", 346, "loads", "return _default_decoder.decode(s)"),
                (f"{_LIBRARY}/json/decoder.py", 337, "decode", "obj, end = self.raw_decode(s, idx=_w(s, 0).end())"),
            )
        ),
    ),
    ends=0.33,
)
#: begins in the last hours of the period
NEW = Failure(
    "TypeError",
    "builtins",
    "unsupported operand type(s) for +: 'Decimal' and 'float'",
    (Block((("@shop/prices/rounding.py", 44, "rounded", "return price + surcharge"),)),),
    begins=0.975,
)
#: of the deployment that breaks a task
BROKEN = Failure(
    "AttributeError",
    "builtins",
    "'NoneType' object has no attribute 'currency'",
    (
        Block(
            (
                ("@shop/payments/cards.py", 52, "charge", "amount = converted(order.total, account.currency)"),
                ("@shop/payments/cards.py", 19, "converted", "rate = rates[order.account.currency]"),
            )
        ),
    ),
)
CHORD_FAILED = Failure(
    "ChordError",
    "celery.exceptions",
    "Dependency 5b1b9c4e-7d0a-4d6b-9e62-%(n)d raised IntegrityError()",
    (Block(((f"{_SITE}/celery/result.py", 807, "join_native", "raise value"),)),),
    is_inside=False,
)
REVOKED_RESULT = '{"exc_type": "TaskRevokedError", "exc_message": ["revoked"], "exc_module": "celery.exceptions"}'

#: the ways to fail of the tasks of a module, and those of any task
_OF_MODULE = {
    "orders": (BAD_VALUE, TIMEOUT, HTTP_500),
    "mail": (REFUSED_MAIL, TIMEOUT, GONE),
    "reports": (TOO_SLOW, FULL_DISK, TOO_DEEP),
    "images": (BAD_IMAGE, TOO_SLOW, BAD_IMAGE),
    "imports": (TIMEOUT, MISSING_KEY, BAD_TEXT, TWICE),
    "stock": (TWICE, HTTP_500, BAD_VALUE),
    "search": (HTTP_500, TOO_DEEP),
    "accounts": (TWICE, HTTP_500),
    "prices": (NEW, TIMEOUT, MISSING_KEY, GONE),
    "webhooks": (TIMEOUT, HTTP_500, GONE),
    "billing": (BAD_VALUE, TIMEOUT, TWICE),
    "maintenance": (FULL_DISK, TOO_SLOW),
}
_OF_ANY = (WORKER_LOST,)


@cache
def failures_of(task: Task) -> tuple[Failure, ...]:
    """Return the ways in which a task fails; common ones several times."""
    own = _OF_MODULE[task.name.split(".")[1]]
    return own[:1] * 6 + own * 3 + _OF_ANY


@cache
def group_of(failure: Failure, task: Task) -> int:
    """Return the number of the group of failures, as a worker computes it. It is the same for every release."""
    numbers = {"n": 12_345, "m": 17}
    described = json.loads(failure.result(numbers))
    return _GROUPER.group(described, failure.traceback(task, "20260101", 0, numbers), task.name).group

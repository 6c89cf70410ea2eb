"""The 60 tasks of the shop: their queues, how often they run and for how long, and what they take and return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: the workers of each queue
WORKERS = {
    "default": ("default@web-1", "default@web-2", "default@web-3"),
    "mail": ("mail@web-1", "mail@web-2"),
    "reports": ("reports@batch-1", "reports@batch-2"),
    "images": ("images@gpu-1", "images@gpu-2"),
    "imports": ("imports@batch-1", "imports@batch-2"),
}


@dataclass(frozen=True, slots=True)
class Task:
    """A task of the shop.

    Attributes:
        name: its whole name.
        queue: the queue that it is sent to.
        weight: how often it runs, compared with others.
        median, sigma: its run time is lognormal with this median in seconds.
        args, kwargs, result: templates of JSON texts; ``%(n)d`` is a large number, ``%(m)d`` a small one.
        failure_share: the share of its runs that fail on a normal day.
        uses_database: whether it fails while the database is out of reach.
    """

    name: str
    queue: str
    weight: float
    median: float
    sigma: float
    args: str
    kwargs: str
    result: str
    failure_share: float
    uses_database: bool

    @property
    def function(self) -> str:
        """The name of its function."""
        return self.name.rpartition(".")[2]

    @property
    def path(self) -> str:
        """The path of its module in the application's folder."""
        return self.name.rpartition(".")[0].replace(".", "/") + ".py"


#: args, kwargs and result of a kind of task
_SHAPES = {
    "order": (
        '["ORD-%(n)d"]',
        '{"notify": true}',
        '{"order": "ORD-%(n)d", "total": %(m)d.90, "currency": "EUR", "lines": [{"sku": "SKU-%(m)d", "count": 2}]}',
    ),
    "mail": ('["user%(n)d@example.com", "order-%(m)d"]', '{"language": "en"}', '"250 2.0.0 queued as %(n)d"'),
    "report": (
        '["2026-%(m)d"]',
        '{"format": "csv", "columns": ["day", "sku", "count", "total"], "rows": %(n)d}',
        '{"path": "/exports/%(n)d.csv", "rows": %(n)d, "bytes": %(n)d17}',
    ),
    "image": ("[%(n)d, 640, 480]", "{}", '{"image": %(n)d, "key": "images/%(m)d/%(n)d.webp", "ms": %(m)d}'),
    "feed": (
        '["https://feeds.example.com/%(m)d.xml"]',
        '{"since": "2026-10-%(m)d"}',
        '{"products": %(n)d, "unchanged": %(m)d, "errors": []}',
    ),
    "product": ("[%(n)d]", '{"warehouse": "W%(m)d"}', "%(m)d"),
    "user": ("[%(n)d]", "{}", "true"),
    "hook": (
        '["https://hooks.example.com/%(m)d", {"event": "order.paid", "order": %(n)d}]',
        '{"attempt": 1}',
        '{"status": 200, "ms": %(m)d}',
    ),
    "nothing": ("[]", "{}", "null"),
}

#: module, queue, and the tasks of the module: function, weight, median and sigma of seconds, shape, failures, database
_MODULES: tuple[tuple[str, str, tuple[tuple[str, float, float, float, str, float, bool], ...]], ...] = (
    (
        "shop.orders.tasks",
        "default",
        (
            ("place", 60, 0.12, 0.6, "order", 0.01, True),
            ("charge_card", 55, 0.9, 0.8, "order", 0.03, True),
            ("ship", 40, 0.3, 0.6, "order", 0.02, True),
            ("cancel", 6, 0.1, 0.5, "order", 0.01, True),
            ("refund", 4, 1.1, 0.7, "order", 0.04, True),
        ),
    ),
    (
        "shop.mail.tasks",
        "mail",
        (
            ("send_receipt", 70, 0.4, 0.7, "mail", 0.03, False),
            ("send_newsletter", 90, 0.35, 0.7, "mail", 0.05, False),
            ("send_reset", 12, 0.4, 0.7, "mail", 0.02, False),
            ("bounce", 8, 0.05, 0.5, "mail", 0.01, True),
            ("digest", 20, 0.8, 0.6, "mail", 0.03, True),
        ),
    ),
    (
        "shop.reports.tasks",
        "reports",
        (
            ("daily_sales", 1, 45.0, 0.5, "report", 0.05, True),
            ("export_csv", 8, 12.0, 1.0, "report", 0.08, True),
            ("render_pdf", 14, 3.0, 0.9, "report", 0.06, False),
            ("aggregate", 10, 6.0, 0.8, "report", 0.03, True),
            ("refresh_dashboard", 24, 1.5, 0.5, "nothing", 0.02, True),
        ),
    ),
    (
        "shop.images.tasks",
        "images",
        (
            ("thumbnail", 120, 0.18, 0.6, "image", 0.04, False),
            ("resize", 60, 0.35, 0.7, "image", 0.05, False),
            ("watermark", 30, 0.25, 0.6, "image", 0.03, False),
            ("strip_metadata", 40, 0.06, 0.5, "image", 0.02, False),
            ("scan", 40, 1.4, 0.9, "image", 0.07, False),
        ),
    ),
    (
        "shop.imports.tasks",
        "imports",
        (
            ("fetch_feed", 16, 2.5, 1.1, "feed", 0.15, False),
            ("parse_feed", 16, 4.0, 1.0, "feed", 0.12, False),
            ("upsert_products", 30, 1.8, 0.8, "feed", 0.04, True),
            ("index_product", 90, 0.04, 0.6, "product", 0.01, False),
            ("finish_import", 12, 0.6, 0.5, "feed", 0.02, True),
        ),
    ),
    (
        "shop.stock.tasks",
        "default",
        (
            ("reserve", 58, 0.05, 0.6, "product", 0.02, True),
            ("release", 20, 0.05, 0.6, "product", 0.01, True),
            ("count", 18, 0.3, 0.7, "product", 0.01, True),
            ("reorder", 5, 0.9, 0.8, "product", 0.06, False),
            ("sync_warehouse", 9, 5.0, 1.0, "product", 0.14, False),
        ),
    ),
    (
        "shop.search.tasks",
        "default",
        (
            ("index", 80, 0.03, 0.6, "product", 0.01, False),
            ("reindex_all", 0.2, 240.0, 0.4, "nothing", 0.1, True),
            ("suggest", 25, 0.08, 0.5, "product", 0.01, False),
            ("drop", 6, 0.02, 0.4, "product", 0.01, False),
            ("warm_cache", 12, 2.0, 0.7, "nothing", 0.03, False),
        ),
    ),
    (
        "shop.accounts.tasks",
        "default",
        (
            ("register", 12, 0.2, 0.6, "user", 0.02, True),
            ("verify_email", 14, 0.3, 0.7, "user", 0.02, False),
            ("close", 2, 0.4, 0.5, "user", 0.02, True),
            ("merge", 1, 0.9, 0.8, "user", 0.09, True),
            ("anonymise", 3, 0.7, 0.6, "user", 0.02, True),
        ),
    ),
    (
        "shop.prices.tasks",
        "imports",
        (
            ("recompute", 50, 0.25, 0.8, "product", 0.02, True),
            ("apply_discount", 22, 0.1, 0.6, "product", 0.03, True),
            ("publish", 26, 0.2, 0.6, "product", 0.02, False),
            ("fetch_rates", 4, 1.2, 0.8, "nothing", 0.12, False),
            ("compare", 18, 2.2, 1.0, "product", 0.1, False),
        ),
    ),
    (
        "shop.webhooks.tasks",
        "default",
        (
            ("deliver", 64, 0.6, 1.1, "hook", 0.14, False),
            ("retry_failed", 6, 1.0, 0.8, "hook", 0.1, True),
            ("verify_signature", 40, 0.01, 0.4, "hook", 0.01, False),
            ("rotate_secret", 0.5, 0.1, 0.4, "user", 0.01, True),
            ("prune", 2, 3.0, 0.7, "nothing", 0.02, True),
        ),
    ),
    (
        "shop.billing.tasks",
        "reports",
        (
            ("create_invoice", 36, 0.8, 0.7, "order", 0.03, True),
            ("collect", 14, 1.6, 0.9, "order", 0.08, True),
            ("dun", 4, 0.5, 0.6, "mail", 0.04, True),
            ("close_month", 0.1, 900.0, 0.3, "report", 0.1, True),
            ("send_statement", 10, 0.9, 0.7, "mail", 0.03, False),
        ),
    ),
    (
        "shop.maintenance.tasks",
        "reports",
        (
            ("clean_sessions", 6, 1.0, 0.6, "nothing", 0.01, True),
            ("vacuum", 1, 30.0, 0.6, "nothing", 0.02, True),
            ("rotate_logs", 1, 2.0, 0.5, "nothing", 0.01, False),
            ("backup", 1, 180.0, 0.4, "nothing", 0.05, True),
            ("check_certificates", 2, 4.0, 0.8, "nothing", 0.04, False),
        ),
    ),
)


def _tasks() -> Iterator[Task]:
    for module, queue, functions in _MODULES:
        for function, weight, median, sigma, shape, share, uses_database in functions:
            args, kwargs, result = _SHAPES[shape]
            name = f"{module}.{function}"
            yield Task(name, queue, weight, median, sigma, args, kwargs, result, share, uses_database)


#: all tasks
TASKS = tuple(_tasks())
BY_NAME = {task.name: task for task in TASKS}
#: the task that a deployment breaks
BROKEN = BY_NAME["shop.orders.tasks.charge_card"]
#: the tasks of a chain, in their order; shorter chains are its beginning
CHAIN = tuple(
    BY_NAME[f"shop.{name}"]
    for name in ("orders.tasks.place", "stock.tasks.reserve", "orders.tasks.charge_card", "orders.tasks.ship")
)
#: the tasks of groups
MEMBERS = tuple(
    BY_NAME[f"shop.{name}"]
    for name in ("images.tasks.thumbnail", "imports.tasks.index_product", "mail.tasks.send_newsletter")
)
#: a chord: its header's task, and its body
HEADER, BODY = BY_NAME["shop.imports.tasks.upsert_products"], BY_NAME["shop.imports.tasks.finish_import"]

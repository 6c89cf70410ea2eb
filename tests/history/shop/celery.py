"""The application's Celery. Broker and results are in the folder SHOP_FOLDER."""

import os

from celery import Celery

folder = os.environ["SHOP_FOLDER"]
app = Celery(
    "shop", broker=f"sqla+sqlite:///{folder}/queue.sqlite3", backend=f"rootcellar+sqlite:///{folder}/results.sqlite3"
)
app.conf.update(
    include=["shop.tasks"],
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
)

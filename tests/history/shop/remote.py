"""Calls of a database and of a server over HTTP."""

import socketserver
import threading
from http.server import BaseHTTPRequestHandler

import requests
import sqlalchemy


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(int(self.path.rpartition("/")[2]))

    def log_message(self, *args):
        pass


def get(status):
    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        response = requests.get(f"http://127.0.0.1:{server.server_address[1]}/{status}", timeout=10)
        response.raise_for_status()


def refused():
    requests.get("http://127.0.0.1:1/orders/17", timeout=10)


def timed_out():
    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        requests.get(f"http://127.0.0.1:{server.server_address[1]}/orders/17", timeout=0.1)


def no_table(order):
    with sqlalchemy.create_engine("sqlite://").connect() as connection:
        connection.execute(sqlalchemy.text("SELECT * FROM orders WHERE id = :id"), {"id": order})


def twice(order):
    with sqlalchemy.create_engine("sqlite://").begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE orders (id INTEGER PRIMARY KEY)"))
        for _ in range(2):
            connection.execute(sqlalchemy.text("INSERT INTO orders VALUES (:id)"), {"id": order})

"""The built book in a real browser: where it is, and a server of it that can break what it sends."""

from __future__ import annotations

import http.server
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

REPOSITORY = Path(__file__).resolve().parents[2]
HTML = Path(os.environ.get("STEERLIB_BOOK", REPOSITORY / "_build" / "html"))
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Site(http.server.ThreadingHTTPServer):
    """The built book on this machine. `asked` has every path; `broken` says of a part of a path how its file arrives."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.broken: dict[str, str] = {}
        self.address = f"http://127.0.0.1:{self.server_port}/"


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        path = urlparse(self.path).path
        self.server.asked.append(path)
        how = next((how for part, how in self.server.broken.items() if part in path), "whole")
        file = HTML / unquote(path).lstrip("/")
        if how == "whole" or not file.is_file():
            return super().do_GET()
        data = file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if how == "cut":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        else:  # altered
            self.wfile.write(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])

    def translate_path(self, path: str) -> str:
        return str(HTML / unquote(urlparse(path).path).lstrip("/"))

    def log_message(self, format: str, *args: Any) -> None:
        pass

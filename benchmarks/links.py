"""What the bytes of an image cost on their way from a link to S3, over http and over https."""

from __future__ import annotations

import io
import ssl
import tempfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.certificates import make_certificate
from benchmarks.report import Table, medians, verdict
from benchmarks.servers import open_servers
from benchmarks.work import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.servers import Servers

SIZE: Final = 4  # MiB
COUNT: Final = 50
MORE: Final = 1.15  # times the plain version's CPU


def main(runs: int) -> Table:
    """Measure both ways in turn, over both protocols, in a fresh process each time."""
    image = _make_image(SIZE * MIB)
    with open_servers() as servers, tempfile.TemporaryDirectory(prefix="aisa-benchmarks-") as folder:
        authority, context = make_certificate(Path(folder))
        with _serve(image, None) as plain_link, _serve(image, context) as encrypted_link:
            found = {
                protocol: _measure(servers, link, str(authority), runs)
                for protocol, link in (("http", plain_link), ("https", encrypted_link))
            }
    rows = [
        (name, protocol, *(f"{ways[way][key] / COUNT * 1000:.1f}" for key in ("cpu_seconds", "seconds")))
        for protocol, ways in found.items()
        for way, name in (("ours", "ours: `store_images`"), ("plain", "plain: httpx, boto3"))
    ]
    http, https = (
        found[protocol]["ours"]["cpu_seconds"] / found[protocol]["plain"]["cpu_seconds"]
        for protocol in ("http", "https")
    )
    return Table(
        f"The bytes of an image of {SIZE} MiB, from its link to S3",
        ("way", "link", "CPU ms per image", "ms per image, four at a time"),
        rows,
        (
            f"Medians of {runs} run(s) of {COUNT} images, taken in turn. S3 is reached over http.",
            "Without gateway and journal. Ours hashes each image, checks it and sends its checksum along.",
            f"Ours computes {http:.2f} times as long over http, and {https:.2f} over https.",
            verdict(f"at most {MORE} x the plain version's CPU", met=max(http, https) <= MORE),
        ),
    )


def _measure(servers: Servers, link: str, authority: str, runs: int) -> Mapping[str, Mapping[str, float]]:
    turns: dict[str, list[dict[str, float]]] = {"ours": [], "plain": []}
    for turn in range(runs):
        for way in sorted(turns, reverse=bool(turn % 2)):
            turns[way].append(servers.links(way, link, COUNT, authority))
    return {way: medians(figures) for way, figures in turns.items()}


def _make_image(size: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (2048, 2048)).save(buffer, "PNG")
    content = buffer.getvalue()
    end = content[-12:]
    return content + bytes(size - len(content) - len(end)) + end


@contextmanager
def _serve(image: bytes, context: ssl.SSLContext | None) -> Iterator[str]:
    """Serve the image on a free port, over TLS if there is a context, and yield its link."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(image)))
            self.end_headers()
            self.wfile.write(image)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_port}/image.png"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

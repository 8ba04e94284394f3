from __future__ import annotations

import io
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from airflow_provider_aisa.sandbox import Sandbox

SEEDREAM = "seedream-4-5-251128"
TLS = ssl.create_default_context()  # not used, but httpx takes 20 ms to make one


class Api:
    """What a client does: ask the gateway with the key, fetch from the CDN without it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.http = httpx.Client(
            base_url=sandbox.base_url,
            headers={"Authorization": f"Bearer {sandbox.api_key}"},
            trust_env=False,
            timeout=10,
            verify=TLS,
        )
        self.cdn = httpx.Client(trust_env=False, timeout=10, verify=TLS)

    def valid(self, **fields: object) -> dict[str, object]:
        """Return a valid request with `fields` merged into it."""
        return {"model": SEEDREAM, "prompt": "a red panda", "n": 1, **fields}

    def generate(self, **fields: object) -> httpx.Response:
        """Send one such request."""
        return self.http.post("/images/generations", json=self.valid(**fields))

    def links(self, **fields: object) -> list[str]:
        """Generate, and return the links."""
        response = self.generate(**fields)
        assert response.status_code == 200, response.text
        return [entry["url"] for entry in response.json()["data"]]

    def control(self, method: str, name: str, **options: Any) -> httpx.Response:
        """GatewayCall a control endpoint, without a key."""
        url = self.sandbox.base_url.removesuffix("/v1") + f"/_sandbox/{name}"
        return self.cdn.request(method, url, **options)

    def close(self) -> None:
        self.http.close()
        self.cdn.close()


@pytest.fixture
def api(aisa_sandbox: Sandbox) -> Iterator[Api]:
    client = Api(aisa_sandbox)
    yield client
    client.close()


def run(*command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run this Python with `command` and return its output and exit code."""
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def opened(content: bytes) -> Image.Image:
    """Decode an image to the last pixel."""
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def error(response: httpx.Response) -> tuple[int, str, str]:
    """Return status, code and message of an answer that must have the documented error shape."""
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["type", "code", "message", "request_id"]
    assert body["error"]["request_id"] == response.headers["X-Request-ID"]
    return response.status_code, body["error"]["code"], body["error"]["message"]

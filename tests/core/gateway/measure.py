"""A process of its own that sends one request and prints what came of it, and what that cost in memory.

Run as ``python -m tests.core.gateway.measure BASE_URL N``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from airflow_provider_aisa.core.gateway.client import AisaClient
from airflow_provider_aisa.core.gateway.request import ImageRequest
from airflow_provider_aisa.exceptions import AisaError
from tests.support import make_settings

_STATUS: Final = Path("/proc/self/status")
_RESET_PEAK: Final = "5"


def kilobytes(name: str) -> int:
    """Return a figure of this process, such as its resident memory or the peak of that."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def forget_peak() -> None:
    """Let the peak of this process's memory begin now."""
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)


def main() -> None:
    """Warm up with one request that is answered well, then measure the one that is not."""
    base_url, n = sys.argv[1:]
    request = ImageRequest.parse(prompt="a red panda", n=n)
    with AisaClient(make_settings(base_url=base_url, timeout=60, max_retries=0)) as client:
        client.generate(request)
        forget_peak()
        start = kilobytes("VmRSS")
        try:
            found, text = f"{client.generate(request).billed} billed", ""
        except AisaError as e:
            found, text = type(e).__name__, str(e)
    peak = kilobytes("VmHWM") - start
    sys.stdout.write(json.dumps({"found": found, "text": text, "peak_mb": peak / 1000}))


if __name__ == "__main__":
    main()

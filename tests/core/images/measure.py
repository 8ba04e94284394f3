"""A process of its own that fetches one image and prints what came of it, and what that cost in memory.

Run as ``python -m tests.core.images.measure GOOD_LINK LINK``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import BinaryIO, cast

from airflow_provider_aisa.core.images.download import open_fetcher
from airflow_provider_aisa.core.threads import Stop
from airflow_provider_aisa.exceptions import AisaError
from tests.core.gateway.measure import forget_peak, kilobytes
from tests.support import make_settings


def main() -> None:
    """Warm up with one image that is good, then measure the other one."""
    good, link = sys.argv[1:]
    settings = make_settings(base_url="http://127.0.0.1:1/v1", max_retries=0)
    with open_fetcher(settings, timeout=30.0) as fetcher, tempfile.TemporaryFile(buffering=0) as unbuffered:
        file = cast("BinaryIO", unbuffered)
        fetcher.fetch(good, file, Stop())
        forget_peak()
        before, began = kilobytes("VmRSS"), time.process_time()
        try:
            found, text = f"{fetcher.fetch(link, file, Stop()).bytes} bytes", ""
        except AisaError as e:
            found, text = type(e).__name__, str(e)
        cpu = time.process_time() - began
    peak = kilobytes("VmHWM") - before
    sys.stdout.write(json.dumps({"found": found, "text": text, "peak_mb": peak / 1000, "cpu": cpu}))


if __name__ == "__main__":
    main()

"""The sandbox in a terminal. It says what each request would have cost, and exits 0 on Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import shlex
import signal
import threading
from typing import TYPE_CHECKING, get_args

from airflow_provider_aisa.sandbox import Fault
from airflow_provider_aisa.sandbox.faults import KINDS, Billing, Kind
from airflow_provider_aisa.sandbox.records import GatewayRequest
from airflow_provider_aisa.sandbox.settings import DEFAULT_API_KEY, ImageFormat

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from airflow_provider_aisa.sandbox.records import CdnRequest
    from airflow_provider_aisa.sandbox.server import Sandbox

_BANNER = """\
AIsa sandbox: a local gateway, free of charge. Ctrl-C stops it.

  gateway   {base_url}
  images    {cdn_url}
  API key   {api_key}

  export AIRFLOW_CONN_AISA_DEFAULT={connection}

  a fault   curl {origin}/_sandbox/faults -H 'Content-Type: application/json' \
                 -d '{{"kind": "rate_limited", "times": 2, "retry_after": 3}}'
  ledger    curl {origin}/_sandbox/ledger
"""
_FAULTS = """\
Faults (more can be said of one through /_sandbox/faults, or in Python with `Fault`):"""
_BILLED: dict[Billing, str] = {"never": "", "if asked": " [billed if asked]", "always": " [billed]"}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal comes. Exits with 2 for options that make no sense or a port in use."""
    parser = _parser()
    options = vars(parser.parse_args(argv))
    faults: list[Fault] = options.pop("fault")
    try:
        from airflow_provider_aisa.sandbox import Sandbox  # needs aiohttp and Pillow; --help does not

        sandbox = Sandbox(**options, on_request=_print_request)
        sandbox.inject(*faults)
        stop = _stop_signal()
        sandbox.start()
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    _print_banner(sandbox)
    stop.wait()
    sandbox.stop()
    print(f"\n{_money(sandbox.billed, sandbox.cost_usd)}: what AIsa would have charged", flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_aisa.sandbox",
        description="A local AIsa gateway and CDN for developing DAGs: free, offline, with faults on demand.",
        epilog="\n".join([_FAULTS, *(f"  {kind:21} {_described(rule)}" for kind, rule in KINDS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--port", type=int, default=8787, help="the gateway's port (default %(default)s; 0: any free one)")
    add("--cdn-port", type=int, default=0, help="the port of the images (default: any free one)")
    add("--api-key", default=DEFAULT_API_KEY, help="the only key that is accepted (default %(default)s)")
    add("--latency", type=float, default=0.0, metavar="S", help="seconds that a generation takes (default 0)")
    add("--image-format", choices=get_args(ImageFormat), default="png", help="default %(default)s")
    add("--image-bytes", type=int, metavar="N", help="pad each image file to N bytes")
    add(
        "--link-ttl",
        type=float,
        default=86_400,
        metavar="S",
        help="seconds until links expire (default a day)",
    )
    add("--requests-per-minute", type=int, metavar="N", help="answer 429 above this rate (default: no limit)")
    add(
        "--max-in-flight",
        type=int,
        metavar="N",
        help="answer 429 above this many at once (default: no limit)",
    )
    add(
        "--gemini-requests-per-minute",
        type=int,
        default=30,
        metavar="N",
        help="Gemini's own limit (default %(default)s)",
    )
    add(
        "--fault",
        type=_fault,
        action="append",
        default=[],
        metavar="KIND[:TIMES]",
        help="repeatable; see below",
    )
    return parser


def _described(rule: Kind) -> str:
    return f"{rule.words}{_BILLED[rule.billing]}"


def _fault(text: str) -> Fault:
    try:
        return Fault.from_text(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _stop_signal() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _print_banner(sandbox: Sandbox) -> None:
    banner = _BANNER.format(
        base_url=sandbox.base_url,
        cdn_url=sandbox.cdn_url,
        api_key=sandbox.api_key,
        connection=shlex.quote(sandbox.connection),
        origin=sandbox.base_url.removesuffix("/v1"),
    )
    print(banner, flush=True)


def _print_request(request: GatewayRequest | CdnRequest) -> None:
    if isinstance(request, GatewayRequest):
        note = _money(request.billed, request.cost_usd) if request.billed else "not billed"
    else:
        note = f"credentials seen: {', '.join(request.credentials)}" if request.credentials else "image host"
    status = request.status or "cut"
    clock = f"{request.time.astimezone():%H:%M:%S}"
    print(f"{clock}  {request.method:4} {request.path}  {status}  {note}", flush=True)


def _money(images: int, cost: Decimal) -> str:
    return f"{images} image{'' if images == 1 else 's'} billed, ${cost:.3f}"

"""The pages as they are sent: an empty frame. What they show, their script asks for."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from starlette.responses import HTMLResponse, Response

from airflow_provider_aisa.ui.access import PAGE_POLICY
from airflow_provider_aisa.ui.stores import Unavailable
from airflow_provider_aisa.version import __version__

_STATIC: Final = Path(__file__).parent / "static"
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
#: Scripts that no other script imports.
_NOT_IMPORTED: Final = {"theme.js", "run.js", "dag.js"}
_FRAME: Final = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Images</title>
<link rel="icon" type="image/svg+xml" href="static/{__version__}/icon.svg">
<script src="static/{__version__}/theme.js"></script>
{{preloads}}
<link rel="stylesheet" href="static/{__version__}/gallery.css">
<script type="module" src="static/{__version__}/{{script}}"></script>
</head>
<body><main id="gallery" aria-busy="true"></main>
<noscript>The gallery needs JavaScript.</noscript></body>
</html>
"""


def page(script: str, *, status: int = 200) -> Response:
    """Return a page that runs one of the scripts; it knows nothing of what the script will be told."""
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "private, no-cache"}
    content = _FRAME.replace("{script}", script).replace("{preloads}", _preloads())
    return HTMLResponse(content, status_code=status, headers=headers)


def static_file(name: str) -> Response:
    """Return one of the package's own scripts and styles; other names raise Unavailable."""
    if name not in _names():
        raise Unavailable("There is no such file.")
    path = _STATIC / name
    # Its address has the version in it.
    headers = {"Cache-Control": "private, max-age=86400"}
    return Response(path.read_bytes(), media_type=_TYPES[path.suffix], headers=headers)


@cache
def _preloads() -> str:
    """Let the browser ask for all modules at once, not for each when another has named it."""
    modules = sorted(name for name in _names() if name.endswith(".js") and name not in _NOT_IMPORTED)
    return "".join(f'<link rel="modulepreload" href="static/{__version__}/{name}">' for name in modules)


@cache
def _names() -> frozenset[str]:
    return frozenset(path.name for path in _STATIC.iterdir() if path.suffix in _TYPES)

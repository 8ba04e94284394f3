"""`python -m tools.check_demo` compares what a demo left, from a clean state, with what its summary says.

The images are decoded by Pillow, which the provider does not use: it must not be its own witness.
"""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from tools.demo import COUNT, IMAGES, ROOT, WORK
from tools.demo_summary import Summary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = (2048, 2048)
PRICE_USD = 0.04
MAGIC = {"image/png": (b"\x89PNG\r\n\x1a\n", ".png"), "image/jpeg": (b"\xff\xd8\xff", ".jpg")}


def find_problems(root: Path, summary: Summary) -> list[str]:
    """Return what is wrong, one line each; nothing when all is well."""
    problems = list(_problems_of_the_run(summary))
    on_disk = {f"{IMAGES.name}/{path.name}" for path in (root / IMAGES.name).glob("*")}
    if on_disk != set(summary.files):
        problems.append(f"{IMAGES.name}/ holds {sorted(on_disk)}, the summary names {sorted(summary.files)}")
    for image, file in zip(summary.result["images"], summary.files, strict=False):
        if file in on_disk:
            problems += [f"{file}: {problem}" for problem in _problems_of_a_file(root / file, image)]
    return problems


def _problems_of_the_run(summary: Summary) -> Iterator[str]:
    result = summary.result
    counts = {
        "images in the result": len(result["images"]),
        "local copies": len(summary.files),
        "images in the gateway's usage": result["usage"]["generated_images"],
        "images billed": COUNT if summary.billed is None else summary.billed,
    }
    yield from (f"{count} {what}, not {COUNT}" for what, count in counts.items() if count != COUNT)
    if abs(result["cost_usd"] - COUNT * PRICE_USD) > 1e-9:
        yield f"the cost is {result['cost_usd']}, not {COUNT} x {PRICE_USD}"
    if summary.leaks:
        yield f"the API key is in {', '.join(summary.leaks)}"


def _problems_of_a_file(path: Path, image: dict[str, Any]) -> Iterator[str]:
    content = path.read_bytes()
    magic, suffix = MAGIC.get(image["content_type"], (b"", ""))
    if not magic or not content.startswith(magic) or path.suffix != suffix:
        yield f"is no {image['content_type']}, or its name does not end in {suffix!r}"
    if len(content) != image["bytes"]:
        yield f"has {len(content)} bytes, not {image['bytes']}"
    if hashlib.sha256(content).hexdigest() != image["sha256"]:
        yield "does not match its SHA-256"
    if (image["width"], image["height"]) != SIZE:
        yield f"is said to be {image['width']}x{image['height']}"
    try:
        with Image.open(path) as decoded:
            decoded.load()
            if decoded.size != SIZE:
                yield f"is {decoded.size} pixels large, not {SIZE}"
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        yield f"cannot be decoded: {error}"


def main() -> int:
    """Check the demo of this checkout; return 1 and print the problems when there are any."""
    try:
        summary = Summary.read(WORK / "summary.json")
    except FileNotFoundError:
        print("no .demo/summary.json: did `make demo` succeed?", file=sys.stderr)
        return 1
    problems = find_problems(ROOT, summary)
    print("\n".join(problems) or f"{len(summary.files)} images are what the summary says", flush=True)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

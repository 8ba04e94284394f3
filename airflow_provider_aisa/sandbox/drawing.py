"""The look of an image: each pixel is an index into a palette, so one compressed scene serves all prompts."""

from __future__ import annotations

import colorsys
import hashlib
import math
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from airflow_provider_aisa.sandbox.settings import ImageFormat

# Indices 0-127: the sky, top to bottom. 128-191: hills and sun. 192-255: from the caption's ground to its
# letters, so that their soft edges, which are numbers in between, come out as colours in between.
_SKY, _HILLS, _SUN, _PANEL, _LETTERS = 128, (132, 150, 170), 191, 192, 255
_MIN_CAPTION = (240, 120)


@dataclass(frozen=True)
class Picture:
    """Everything that an image depends on: the same picture is the same bytes, whenever it is fetched."""

    prompt: str
    width: int
    height: int
    index: int
    count: int
    request: int
    image_format: ImageFormat = "png"
    image_bytes: int | None = None


def caption_height(width: int, height: int) -> int:
    """Return the rows at the bottom that hold the caption: 0 where no one could read it."""
    if width < _MIN_CAPTION[0] or height < _MIN_CAPTION[1]:
        return 0
    return min(height // 2, _font_size(width) * 5)


def _font_size(width: int) -> int:
    return min(96, max(12, width // 40))


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def draw_scene(width: int, height: int, *, left: int = 0) -> Image.Image:
    """Draw the ground of all images of a size, as indices; `left` empty columns precede it."""
    scene = Image.new("L", (left + width, height))
    sky = Image.linear_gradient("L").point([value * (_SKY - 1) // 255 for value in range(256)])
    scene.paste(sky.resize((width, height), Image.Resampling.NEAREST), (left, 0))
    draw = ImageDraw.Draw(scene)
    radius = min(width, height) // 9
    centre = (left + width * 0.7, height * 0.3)
    box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    draw.ellipse(box, fill=_SUN)
    for layer, index in enumerate(_HILLS):
        draw.polygon(_hill(width, height, layer, left), fill=index)
    return scene


def _hill(width: int, height: int, layer: int, left: int) -> list[tuple[float, float]]:
    def crest(x: float) -> float:
        wave = math.sin(x * (2.2 + layer) * math.pi + layer * 1.9) + 0.4 * math.sin(x * 11 + layer)
        return height * (0.55 + 0.13 * layer - 0.05 * wave)

    ridge = [(left + width * step / 64, crest(step / 64)) for step in range(65)]
    return [(left, height), *ridge, (left + width, height)]


def draw_caption(picture: Picture, *, left: int = 0) -> Image.Image:
    """Draw the caption, as indices: what was asked for, which image this is, and of which request."""
    rows = caption_height(picture.width, picture.height)
    caption = Image.new("L", (left + picture.width, rows), _PANEL)
    if left:
        caption.paste(0, (0, 0, left, rows))
    if rows:
        size = _font_size(picture.width)
        text = "\n".join([*_wrap(picture.prompt, picture.width // size), _facts(picture)])
        spot = (left + size, size * 0.7)
        ImageDraw.Draw(caption).multiline_text(
            spot, text, fill=_LETTERS, font=_font(size), spacing=size * 0.25
        )
    return caption


def _wrap(prompt: str, columns: int) -> list[str]:
    text = "".join(letter if letter.isprintable() else " " for letter in prompt[:500])
    return textwrap.wrap(text, width=int(columns * 1.7), max_lines=2, placeholder=" …")


def _facts(picture: Picture) -> str:
    which = f"image {picture.index + 1} of {picture.count}"
    return f"{picture.width}x{picture.height} · {which} · request {picture.request} · AIsa sandbox"


def palette(picture: Picture) -> bytes:
    """Return 256 RGB triples that follow from the prompt and the image's index."""
    seed = hashlib.sha256(f"{picture.index}:{picture.prompt}".encode(errors="surrogatepass")).digest()
    hue = seed[0] / 256
    other = hue + 0.12 + seed[1] / 1024
    sky = [
        _colour(hue + (other - hue) * i / 127, 0.55 - 0.3 * i / 127, 0.75 + 0.23 * i / 127)
        for i in range(128)
    ]
    hills = [_colour(other + 0.3, 0.45, 0.75 - 0.6 * i / 62) for i in range(63)]
    grey = [round(28 + 227 * i / 63) for i in range(64)]
    letters = [bytes((value, value, min(255, value + 8))) for value in grey]
    return b"".join([*sky, *hills, _colour(hue + 0.5, 0.25, 1.0), *letters])


def _colour(hue: float, saturation: float, value: float) -> bytes:
    return bytes(round(channel * 255) for channel in colorsys.hsv_to_rgb(hue % 1, saturation, value))

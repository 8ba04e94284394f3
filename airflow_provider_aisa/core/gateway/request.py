"""A request exists only when it is valid: whatever holds an ImageRequest may be sent and paid for."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Self

from airflow_provider_aisa.core.gateway.models import (
    DEFAULT_MODEL,
    DEFAULT_SIZE,
    MODELS,
    ModelSpec,
    Route,
    find_model,
)
from airflow_provider_aisa.exceptions import InvalidRequest, ModelNotRouted, OverBudget

_SUMMARY = 200
_SIZE = re.compile(r"([1-9][0-9]{0,8})[xX]([1-9][0-9]{0,8})")
_DIGITS = re.compile(r"[1-9][0-9]{0,5}")
_MOST_IMAGES = 999_999
_ON_ROUTE = ", ".join(name for name, spec in MODELS.items() if spec.route is Route.IMAGES)


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One call of ``POST /v1/images/generations``, validated. Build it with :meth:`parse`."""

    prompt: str
    width: int
    height: int
    n: int
    model: str

    @classmethod
    def parse(
        cls, *, prompt: object, size: object = DEFAULT_SIZE, n: object = 1, model: object = DEFAULT_MODEL
    ) -> Self:
        """Build a request from what an author wrote or a template rendered.

        :param prompt: the text to draw; not blank.
        :param size: ``WIDTHxHEIGHT`` in pixels. An upper-case ``X`` and blanks around it are accepted.
        :param n: how many images, at least 1; each is billed. A string of digits is accepted, because
            templates render to strings.
        :param model: the model's id.
        :raises ModelNotRouted: the model is served by another route of the gateway.
        :raises InvalidRequest: anything else that the gateway would refuse.
        """
        spec = check_model(model)
        width, height = parse_size(size, model=str(model), spec=spec)
        return cls(prompt=parse_prompt(prompt), width=width, height=height, n=parse_n(n), model=str(model))

    @property
    def size(self) -> str:
        """The size as the gateway wants it: ``WIDTHxHEIGHT``."""
        return f"{self.width}x{self.height}"

    @property
    def is_known_model(self) -> bool:
        """Whether this version knows the model's rules; if not, only the gateway can check them."""
        return find_model(self.model) is not None

    def payload(self) -> dict[str, Any]:
        """Return the JSON body of the POST."""
        return {"model": self.model, "prompt": self.prompt, "n": self.n, "size": self.size}

    def summary(self) -> dict[str, Any]:
        """Return what a person needs to recognise the request: its prompt is cut after 200 characters."""
        return {**self.payload(), "prompt": self.prompt[:_SUMMARY]}

    def fingerprint(self) -> str:
        """Return the SHA-256 (64 hex digits) of everything that decides what is generated and billed."""
        canonical = json.dumps(self.payload(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def price_usd(self, prices: Mapping[str, Decimal]) -> Decimal | None:
        """Return the price of one image in USD; None, never 0, when nobody knows it.

        :param prices: USD per image by model; they win over the list prices.
        """
        spec = find_model(self.model)
        return prices.get(self.model, spec.price_usd if spec else None)

    def check_budget(self, limit: object, price: Decimal | None) -> None:
        """Raise OverBudget when the request costs more than ``limit`` USD (None: no limit)."""
        maximum = parse_max_cost(limit)
        if maximum is None:
            return
        if price is None:
            msg = (
                f'Add "prices": {{"{self.model}": 0.04}} to the AIsa connection\'s extras, with the right '
                f"price: max_cost_usd is {maximum} USD, and the price of model {self.model!r} is not known"
            )
            raise OverBudget(msg)
        if price * self.n > maximum:
            msg = (
                f"Raise max_cost_usd, or ask for fewer images: it is {maximum} USD, and {self.n} image(s) of "
                f"{self.model} at {price} USD cost {price * self.n} USD. Nothing was sent."
            )
            raise OverBudget(msg)


def check_model(model: object) -> ModelSpec | None:
    """Return what is known of the model, or None; raise when another route serves it."""
    if not isinstance(model, str) or not model.strip():
        msg = f"model {model!r} is not a model id: use {_ON_ROUTE!r}"
        raise InvalidRequest(msg)
    spec = find_model(model)
    if spec is not None and spec.route is not Route.IMAGES:
        msg = (
            f"Use AisaHook.request, or another model such as {_ON_ROUTE}: {model!r} is served by "
            f"{spec.route.format(model=model)}, not by {Route.IMAGES}"
        )
        raise ModelNotRouted(msg)
    return spec


def parse_size(size: object, *, model: str, spec: ModelSpec | None) -> tuple[int, int]:
    """Return width and height in pixels, or raise InvalidRequest with the rule and the nearest valid size."""
    rule = spec.size if spec else None
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    if match is None:
        msg = (
            f"size {size!r} is not WIDTHxHEIGHT in pixels, two whole numbers joined by 'x': "
            f"try {_nearest(size, spec)!r}"
        )
        raise InvalidRequest(msg)
    width, height = int(match[1]), int(match[2])
    if rule is not None and not rule.allows(width, height):
        wide, high = rule.nearest(width, height)
        msg = (
            f"size {size!r} has {width * height:,} pixels; {model} needs at least {rule.pixels:,}: "
            f"try '{wide}x{high}'"
        )
        raise InvalidRequest(msg)
    return width, height


def _nearest(size: object, spec: ModelSpec | None) -> str:
    """Guess what a malformed size was meant to be: '2K', '2048*2048' and '1024' all have a meaning."""
    text = unicodedata.normalize("NFKC", str(size)).strip()
    if thousands := re.fullmatch(r"([1-8])[kK]", text):
        text = str(int(thousands[1]) * 1024)
    # Short ones only: Python refuses to turn thousands of digits into a number.
    numbers = [int(digits[:9]) for digits in re.findall(r"[0-9]+", text)]
    if len(numbers) not in {1, 2} or not all(1 <= number <= 99_999 for number in numbers):
        return DEFAULT_SIZE
    width, height = numbers[0], numbers[-1]
    if spec is not None and spec.size is not None:
        width, height = spec.size.nearest(width, height)
    return f"{width}x{height}"


def parse_n(n: object) -> int:
    """Return the number of images; True, 1.5 and 'two' are no numbers of images."""
    if isinstance(n, str) and _DIGITS.fullmatch(n.strip()):
        return int(n)
    if isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= _MOST_IMAGES:
        return n
    shown = "of this size" if isinstance(n, int) and n > _MOST_IMAGES else repr(n)
    msg = f"n {shown} is not a number of images: use a whole number from 1, and remember that each is billed"
    raise InvalidRequest(msg)


def parse_prompt(prompt: object) -> str:
    """Return the prompt as it is, or raise when there is nothing to draw or no way to send it."""
    if not isinstance(prompt, str):
        msg = f"prompt is a {type(prompt).__name__}, not a string: render it to text first"
        raise InvalidRequest(msg)
    if not prompt.strip():
        msg = "prompt is blank: say what to draw. If it is a template, check what it renders to"
        raise InvalidRequest(msg)
    try:
        prompt.encode()
    except UnicodeEncodeError as e:
        msg = f"prompt has a character at position {e.start} that is not valid Unicode: repair the decoding"
        raise InvalidRequest(msg) from None
    return prompt


def parse_max_cost(limit: object) -> Decimal | None:
    """Return a budget in USD, or None for no limit.

    A string of a number is accepted, because templates render to strings; a blank one is not: a template
    that renders to nothing must not lift the limit.
    """
    if limit is None:
        return None
    try:
        amount = Decimal("NaN") if isinstance(limit, bool) else Decimal(str(limit).strip())
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        msg = (
            f"max_cost_usd {limit!r} is not an amount in USD: use a number such as 0.50, or None for no limit"
        )
        raise InvalidRequest(msg)
    return amount

"""A request exists only when it is valid: whatever holds an ImageRequest may be sent and paid for."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, Final, Self

from airflow_provider_aisa.core.gateway.extra import parse_extra_body
from airflow_provider_aisa.core.gateway.models import (
    ALL_FAMILIES,
    DEFAULT_MODEL,
    DEFAULT_SIZE,
    MODELS,
    SEEDREAM,
    Family,
    ModelSpec,
    family_of,
    find_model,
)
from airflow_provider_aisa.core.gateway.references import Reference, parse_references
from airflow_provider_aisa.exceptions import InvalidRequest, ModelNotRouted, OverBudget

_SUMMARY = 200
_SIZE = re.compile(r"([1-9][0-9]{0,8})[xX]([1-9][0-9]{0,8})")
_DIGITS = re.compile(r"[1-9][0-9]{0,5}")
_MOST_IMAGES = 999_999


class Unset(Enum):
    """Stands for a parameter that nobody gave: None is a value like any other, and mostly a wrong one."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What is asked of a model, validated, whatever the route. Build it with :meth:`parse`.

    :param width: pixels; None for a model that takes no size.
    :param height: pixels; None for a model that takes no size.
    :param options: such as Gemini's ``aspect_ratio`` and ``image_size``; only those that were given.
    :param extra_body: further fields of the request's body.
    :param reference_images: what the model is to look at; their versions are part of the purchase.
    :param asked_as: the name of the family by whose rules a model is asked that this version does not know;
        empty for those of Seedream.
    :param number: of several requests that ask for the same, each for an image of its own: which one this is,
        from 0.
    """

    prompt: str
    width: int | None
    height: int | None
    n: int
    model: str
    options: Mapping[str, str] = field(default_factory=dict)
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    reference_images: tuple[Reference, ...] = ()
    asked_as: str = ""
    number: int = 0

    @classmethod
    def parse(
        cls,
        *,
        prompt: object,
        size: object = UNSET,
        n: object = 1,
        model: object = DEFAULT_MODEL,
        aspect_ratio: object = None,
        image_size: object = None,
        reference_images: object = None,
        extra_body: object = None,
        family: Family | None = None,
        unknown_as: Family = SEEDREAM,
    ) -> Self:
        """Build a request from what an author wrote or a template rendered.

        :param prompt: the text to draw; not blank.
        :param size: ``WIDTHxHEIGHT`` in pixels, of a model that takes a size. An upper-case ``X`` and blanks
            around it are accepted.
        :param n: how many images, at least 1; each is billed. A string of digits is accepted, because
            templates render to strings.
        :param model: the model's id.
        :param aspect_ratio: such as ``16:9``, of a model that takes one.
        :param image_size: such as ``2K``, of a model that takes one.
        :param reference_images: see :func:`.references.parse_references`.
        :param extra_body: further fields of the request's body; see :mod:`.extra`.
        :param family: the only family that is allowed. A model that nobody has heard of is taken for one.
        :param unknown_as: without ``family``: what such a model is taken for.
        :raises ModelNotRouted: the model is of another family.
        :raises InvalidRequest: anything else that the gateway would refuse.
        """
        spec = check_model(model, family=family)
        own = spec.family if spec else family or unknown_as
        width, height = parse_size_for(own, size, model=str(model), spec=spec)
        given = {"aspect_ratio": aspect_ratio, "image_size": image_size}
        return cls(
            prompt=parse_prompt(prompt),
            width=width,
            height=height,
            n=parse_n(n, most=None if own.is_one_by_one else own.most_images, model=str(model)),
            model=str(model),
            options=parse_options(own, given, model=str(model)),
            reference_images=parse_references(reference_images, own, model=str(model)),
            asked_as="" if spec or own == SEEDREAM else own.name,
            extra_body=parse_extra_body(extra_body, own.route),
        )

    @property
    def family(self) -> Family:
        """The family of its model."""
        return ALL_FAMILIES[self.asked_as] if self.asked_as else family_of(self.model)

    @property
    def size(self) -> str | None:
        """The size as the gateway wants it: ``WIDTHxHEIGHT``; None for a model that takes no size."""
        return None if self.width is None else f"{self.width}x{self.height}"

    @property
    def is_known_model(self) -> bool:
        """Whether this version knows the model's rules; if not, only the gateway can check them."""
        return find_model(self.model) is not None

    def check_single(self) -> None:
        """Raise InvalidRequest when it would take several requests, and only one is to be sent."""
        if self.n > 1 and self.family.is_one_by_one:
            raise InvalidRequest(
                f"n is {self.n}, and a request makes one image of {self.model}: leave n out, and "
                "ask once for each image (in a batch: an item with an id of its own), or use "
                f"{self.family.operator}"
            )

    def parts(self) -> tuple[Self, ...]:
        """Return the requests that it takes: one, or one for each image where a request makes one image."""
        if not self.family.is_one_by_one or self.n == 1:
            return (self,)
        return tuple(replace(self, n=1, number=number) for number in range(self.n))

    def identity(self) -> dict[str, Any]:
        """Return everything that decides what is generated and billed, as JSON."""
        facts: dict[str, Any] = {"model": self.model, "prompt": self.prompt, "n": self.n}
        further = {
            "size": self.size,
            **self.options,
            "reference_images": [reference.identity() for reference in self.reference_images],
            "asked_as": self.asked_as,
            "extra_body": dict(self.extra_body),
            "number": self.number,
        }
        return facts | {name: value for name, value in further.items() if value}

    def summary(self) -> dict[str, Any]:
        """Return what a person needs to recognise the request.

        Its prompt is cut after 200 characters, and of ``extra_body`` there are the names.
        """
        facts = self.identity() | {"prompt": self.prompt[:_SUMMARY]}
        return facts | ({"extra_body": sorted(self.extra_body)} if self.extra_body else {})

    def fingerprint(self) -> str:
        """Return the SHA-256 (64 hex digits) of everything that decides what is generated and billed."""
        canonical = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
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


def check_model(model: object, *, family: Family | None = None) -> ModelSpec | None:
    """Return what is known of the model, or None; raise when it is not of the family that is asked for."""
    if not isinstance(model, str) or not model.strip():
        msg = f"model {model!r} is not a model id: use {_of_family(family or SEEDREAM)!r}"
        raise InvalidRequest(msg)
    spec = find_model(model)
    if spec is not None and family is not None and spec.family != family:
        msg = (
            f"Use {spec.family.operator}, or another model such as {_of_family(family)}: {model!r} is a "
            f"model of {spec.family.name}, and {family.operator} generates with {family.name}"
        )
        raise ModelNotRouted(msg)
    return spec


def _of_family(family: Family) -> str:
    return ", ".join(name for name, spec in MODELS.items() if spec.family == family)


def parse_size_for(
    family: Family, size: object, *, model: str, spec: ModelSpec | None
) -> tuple[int, int] | tuple[None, None]:
    """Return width and height in pixels; None for a family that takes no size, which must not be given."""
    if family.has_size:
        return parse_size(DEFAULT_SIZE if size is UNSET else size, model=model, spec=spec)
    if size is UNSET or size is None:
        return None, None
    instead = f"; use {' and '.join(family.options)}" if family.options else ""
    raise InvalidRequest(f"leave size out: {model} takes none{instead} (size is {size!r})")


def parse_options(family: Family, given: Mapping[str, object], *, model: str) -> dict[str, str]:
    """Return the options that were given; None is one that was not.

    :raises InvalidRequest: the family has no such option, or not with this value.
    """
    options: dict[str, str] = {}
    for name, value in given.items():
        if value is None:
            continue
        choices = family.options.get(name)
        if choices is None:
            instead = "; use size" if family.has_size else ""
            raise InvalidRequest(f"leave {name} out: {model} takes none{instead} ({name} is {value!r})")
        text = value.strip() if isinstance(value, str) else value
        if not isinstance(text, str) or text not in choices:
            raise InvalidRequest(f"{name} {value!r} is unknown to {model}: use one of {', '.join(choices)}")
        options[name] = text
    return options


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


def parse_n(n: object, *, most: int | None = None, model: str = "") -> int:
    """Return the number of images; True, 1.5 and 'two' are no numbers of images.

    :param most: how many a request to the model may ask for; None when nothing is documented.
    """
    if isinstance(n, str) and _DIGITS.fullmatch(n.strip()):
        n = int(n)
    if isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= _MOST_IMAGES:
        if most is not None and n > most:
            msg = f"n is {n}, and a request to {model} makes at most {most} images: use several requests"
            raise InvalidRequest(msg)
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

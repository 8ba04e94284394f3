"""Values from outside (JSON, keyword arguments) are checked here: a ValueError says what is wrong."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)


def known_fields(cls: type[DataclassInstance], values: object) -> Mapping[str, Any]:
    """Return `values` as fields of `cls`, whose `__post_init__` has to check each of them.

    Raises ValueError for anything but a JSON object of its fields.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    fields = values if isinstance(values, dict) else None
    if fields is None:
        raise ValueError(f"expected a JSON object with some of {', '.join(names)}, got {values!r}")
    unknown = sorted(str(name) for name in fields if name not in names)
    if unknown:
        raise ValueError(f"unknown field {', '.join(unknown)}: expected some of {', '.join(names)}")
    return fields


def require_int(
    name: str, value: object, *, minimum: int, maximum: int | None = None, optional: bool = False
) -> None:
    """Raise ValueError unless `value` is an integer between these bounds (or None, where allowed)."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        words = " or null" if optional else ""
        raise ValueError(f"{name} must be an integer of at least {minimum}{words}, got {value!r}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {value}")


def require_seconds(name: str, value: object, *, optional: bool = False) -> None:
    """Raise ValueError unless `value` is a finite number of seconds that is not negative."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        words = " or null" if optional else ""
        raise ValueError(f"{name} must be a number of seconds, zero or more{words}, got {value!r}")


def require_text(name: str, value: object, *, optional: bool = False) -> None:
    """Raise ValueError unless `value` is a string with something in it."""
    if optional and value is None:
        return
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a non-empty string, got {value!r}")

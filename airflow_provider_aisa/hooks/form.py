"""The form of a connection in Airflow 3.1 and below, which is made of widgets of wtforms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wtforms import IntegerField, PasswordField, StringField
from wtforms.validators import Optional

from airflow_provider_aisa.provider_info import CONNECTION_FIELDS

if TYPE_CHECKING:
    from collections.abc import Mapping


def widgets() -> dict[str, Any]:
    """Return the form's extra fields by their names."""
    return {name: _widget(name, field) for name, field in CONNECTION_FIELDS.items()}


def _widget(name: str, field: Mapping[str, Any]) -> object:
    kind = IntegerField if "integer" in field["schema"]["type"] else StringField
    # Airflow 2.11 shows what is stored in a field unless it is a password field, and a proxy's URL can hold a
    # password. Later versions hide every extra whose name says "proxy".
    kind = PasswordField if name == "proxy" else kind
    return kind(
        field["label"],
        validators=[Optional()],
        description=field["description"],
        default=field["schema"].get("default"),
    )

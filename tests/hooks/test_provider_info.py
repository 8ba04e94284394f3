from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import airflow
import pytest
from airflow.providers.common.compat.sdk import redact
from airflow.providers_manager import ProvidersManager

from airflow_provider_aisa import operators
from airflow_provider_aisa.core.gateway.settings import DEFAULT_BASE_URL, ConnectionSettings, unknown_extras
from airflow_provider_aisa.hooks.aisa import AisaHook
from airflow_provider_aisa.provider_info import CONNECTION_FIELDS, get_provider_info
from tests.series import needs_3_1, needs_3_2

jsonschema: Any = importlib.import_module("jsonschema")  # Airflow needs it; it has no types
INFO = get_provider_info()
(CONNECTION_TYPE,) = INFO["connection-types"]


def schema(name: str) -> dict[str, Any]:
    """Return one of the JSON schemas that Airflow ships."""
    found: dict[str, Any] = json.loads((Path(airflow.__path__[0]) / name).read_text())
    return found


def test_provider_info_is_what_airflow_reads() -> None:
    jsonschema.validate(INFO, schema("provider_info.schema.json"))


def test_the_connection_type_passes_the_stricter_schema_of_airflows_own_providers() -> None:
    whole = schema("provider.yaml.schema.json")
    part = {**whole["properties"]["connection-types"], "definitions": whole.get("definitions", {})}
    jsonschema.validate(INFO["connection-types"], part)


def test_the_form_passes_airflows_schema_of_forms() -> None:
    jsonschema.validate(
        AisaHook.get_ui_field_behaviour(), schema("customized_form_field_behaviours.schema.json")
    )


def test_the_distribution_names_this_function_and_this_version() -> None:
    distribution = importlib.metadata.distribution(INFO["package-name"])
    assert INFO["versions"] == [distribution.version]
    (entry,) = distribution.entry_points.select(group="apache_airflow_provider")
    assert entry.load() is get_provider_info


def test_every_module_and_class_that_is_named_exists() -> None:
    for part in ("hooks", "operators", "triggers"):
        for group in INFO[part]:
            for module in group["python-modules"]:
                importlib.import_module(module)
    module, _, name = CONNECTION_TYPE["hook-class-name"].rpartition(".")
    assert getattr(importlib.import_module(module), name) is AisaHook
    assert (CONNECTION_TYPE["connection-type"], CONNECTION_TYPE["hook-name"]) == (
        AisaHook.conn_type,
        AisaHook.hook_name,
    )


def test_every_module_that_has_an_operator_is_named() -> None:
    (group,) = INFO["operators"]
    folder = Path(operators.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if "Operator(" in path.read_text()} - {
        "base",
        "generate",
    }
    assert group["python-modules"] == sorted(f"{operators.__name__}.{name}" for name in modules)


def test_airflow_finds_the_connection_type() -> None:
    installed = ProvidersManager().providers  # type: ignore[no-untyped-call]  # Airflow's has no annotations
    assert installed["airflow-provider-aisa"].version == INFO["versions"][0]


@needs_3_2
def test_a_worker_finds_the_connection_type() -> None:
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    hook = ProvidersManagerTaskRuntime().hooks["aisa"]  # type: ignore[no-untyped-call]  # as above
    assert hook is not None
    assert hook.hook_class_name == "airflow_provider_aisa.hooks.aisa.AisaHook"
    assert (hook.hook_name, hook.package_name) == ("AIsa", "airflow-provider-aisa")


@needs_3_2
def test_the_ui_shows_the_form() -> None:
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    (meta,) = [each for each in HookMetaService.hook_meta_data() if each.connection_type == "aisa"]
    assert meta.hook_name == "AIsa"
    fields = meta.standard_fields
    assert fields is not None
    assert fields.host is not None
    assert (fields.host.title, fields.host.placeholder) == ("Base URL", f"{DEFAULT_BASE_URL} when empty")
    assert fields.password is not None
    assert (fields.password.title, fields.password.hidden) == ("API key *", False)
    assert [each and each.hidden for each in (fields.login, fields.port, fields.url_schema)] == [True] * 3
    assert meta.extra_fields is not None
    assert list(meta.extra_fields) == list(CONNECTION_FIELDS)
    assert {name: field["value"] for name, field in meta.extra_fields.items()} == {
        "timeout": 300,
        "max_retries": 4,
        "max_concurrency": 5,
        "requests_per_minute": None,
        "proxy": None,
        "prices": None,
    }
    assert [name for name, field in meta.extra_fields.items() if "format" in field["schema"]] == []
    assert meta.extra_fields["timeout"]["schema"]["title"] == "Timeout"


@needs_3_1
def test_airflow_hides_a_proxy_that_is_saved() -> None:
    """It can hold a password, and the form shows what is typed there."""
    stored = redact({"proxy": "http://me:hunter2@proxy.example:3128", "timeout": 300})
    assert stored == {"proxy": "***", "timeout": 300}


def test_the_form_has_exactly_the_extras_that_mean_something() -> None:
    assert unknown_extras(CONNECTION_FIELDS) == []
    assert unknown_extras({**CONNECTION_FIELDS, "x": 1}) == ["x"]


def test_what_the_form_sends_untouched_is_what_an_empty_connection_means() -> None:
    extras = {name: field["schema"].get("default") for name, field in CONNECTION_FIELDS.items()}
    filled = ConnectionSettings.parse(conn_id="c", host=None, api_key="sk-aisa-1", extras=extras)
    assert filled == ConnectionSettings.parse(conn_id="c", host=None, api_key="sk-aisa-1", extras={})


@dataclass
class Field:
    """What a wtforms field is made of."""

    label: str
    validators: list[object]
    description: str
    default: object


class StringField(Field):
    pass


class PasswordField(Field):
    pass


class IntegerField(Field):
    pass


class Optional:
    pass


@pytest.fixture
def wtforms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for wtforms, which comes with Airflow's FAB provider only; 3.1 and below always had it."""
    package, validators = ModuleType("wtforms"), ModuleType("wtforms.validators")
    for kind in (StringField, PasswordField, IntegerField):
        setattr(package, kind.__name__, kind)
    validators.Optional = Optional  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wtforms", package)
    monkeypatch.setitem(sys.modules, "wtforms.validators", validators)


@pytest.mark.usefixtures("wtforms")
def test_airflow_3_1_and_below_show_the_same_form() -> None:
    """They ask the hook's classmethods where newer ones read the provider's metadata."""
    widgets: dict[str, Field] = AisaHook.get_connection_form_widgets()
    assert list(widgets) == list(CONNECTION_FIELDS)
    for name, field in CONNECTION_FIELDS.items():
        widget, rules = widgets[name], field["schema"]
        assert (widget.label, widget.description) == (field["label"], field["description"])
        assert widget.default == rules.get("default")
        assert isinstance(widget, PasswordField) == (name == "proxy")
        assert isinstance(widget, IntegerField) == ("integer" in rules["type"])
        assert [type(each) for each in widget.validators] == [Optional]


def test_airflow_3_1_and_below_label_the_same_fields() -> None:
    behaviour = AisaHook.get_ui_field_behaviour()
    assert set(behaviour) == {"hidden_fields", "relabeling", "placeholders"}
    assert {name.replace("_", "-"): value for name, value in behaviour.items()} == CONNECTION_TYPE[
        "ui-field-behaviour"
    ]

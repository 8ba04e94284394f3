"""The connection's form and its Test button, as a person fills them in and presses it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa.provider_info import CONNECTION_FIELDS
from tests.series import needs_3_3
from tools.ports import find_free_ports

if TYPE_CHECKING:
    from playwright.sync_api import Route

    from airflow_provider_aisa.sandbox import Sandbox
    from tests.browser.pages import Pages
    from tools.airflow_run import StandaloneAirflow

UNTOUCHED = {name: field["schema"].get("default") for name, field in CONNECTION_FIELDS.items()}
PROXY = "http://me:hunter2@proxy.example:3128"


def test_form_shows_our_fields_and_nothing_that_means_nothing(pages: Pages) -> None:
    form = pages.add_connection("aisa_shown")

    assert form.field("Base URL").get_attribute("placeholder") == "https://api.aisa.one/v1 when empty"
    assert form.field("API key *").get_attribute("type") == "password"
    for absent in ("Login", "Port", "Schema"):
        assert form.field(absent).count() == 0
    pages.keep("connection-form")
    form.open_extras()
    shown = {name: form.extra_field(name).input_value() for name in CONNECTION_FIELDS}
    assert shown == {name: str(default or "") for name, default in UNTOUCHED.items()}
    pages.keep("connection-extras")


def test_an_edited_connection_keeps_its_key_and_its_proxy_and_shows_neither(
    pages: Pages, airflow: StandaloneAirflow, gateway: Sandbox
) -> None:
    form = pages.add_connection("aisa_edited")
    form.field("Base URL").fill(gateway.base_url)
    form.field("API key *").fill(gateway.api_key)
    form.open_extras()
    form.extra_field("proxy").fill(PROXY)
    form.save()

    form = pages.edit_connection("aisa_edited")
    form.open_extras()
    assert (form.field("API key *").input_value(), form.extra_field("proxy").input_value()) == ("***", "***")
    assert "hunter2" not in pages.page.content()
    form.extra_field("timeout").fill("60")
    form.save()

    saved = airflow.command("connections", "get", "aisa_edited", "--output", "json")
    [connection], _ = json.JSONDecoder().raw_decode(saved[saved.index("[{") :])  # Airflow may log before it.
    assert connection["password"] == gateway.api_key
    # As text: Airflow 3.3's form may save a number as text, which the connection reads as well.
    saved_extras = {name: str(value) for name, value in connection["extra_dejson"].items()}
    expected = {**UNTOUCHED, "proxy": PROXY, "timeout": 60}
    assert saved_extras == {name: str(value) for name, value in expected.items()}


@needs_3_3
def test_test_button_of_airflow_3_3_sends_a_port_that_nobody_typed(
    pages: Pages, airflow: StandaloneAirflow, gateway: Sandbox
) -> None:
    """README says so (apache/airflow#73298). When this fails, Airflow is fixed, and README can forget it."""
    connect(airflow, "aisa_port", gateway.base_url, gateway.api_key)

    assert "Bad Request" in pages.test_connection("aisa_port")


@pytest.mark.parametrize("what", ["good", "wrong key", "unreachable"])
def test_test_button_says_what_is_the_matter_once_the_port_is_put_right(
    pages: Pages, airflow: StandaloneAirflow, gateway: Sandbox, what: str
) -> None:
    """What Airflow's form gets wrong is put right on its way; all else is as a person sees it."""
    nowhere = f"http://127.0.0.1:{find_free_ports(1)[0]}/v1"
    host, key, title, said = {
        "good": (
            gateway.base_url,
            gateway.api_key,
            "Test Connection Successful",
            f"The key works at {gateway.base_url}: 5 models. Nothing was billed.",
        ),
        "wrong key": (
            gateway.base_url,
            "sk-aisa-wrong",
            "Test Connection Failed",
            f"{gateway.base_url} refuses the API key (401 invalid_api_key): copy it again",
        ),
        "unreachable": (
            nowhere,
            gateway.api_key,
            "Test Connection Failed",
            f"{nowhere} gave no answer. Check the Base URL, the network and the proxy.",
        ),
    }[what]
    conn_id = f"aisa_{what.replace(' ', '_')}"
    connect(airflow, conn_id, host, key)
    pages.page.route("**/api/v2/connections/test", without_port)

    billed = gateway.billed
    toast = pages.test_connection(conn_id)

    pages.keep(f"connection-test-{what.replace(' ', '-')}")
    assert title in toast
    assert said in " ".join(toast.split())
    assert gateway.billed == billed


def connect(airflow: StandaloneAirflow, conn_id: str, host: str, key: str) -> None:
    """Save a connection as the form does."""
    body = {"connection_id": conn_id, "conn_type": "aisa", "host": host, "password": key}
    airflow.api("POST", "/api/v2/connections", json=body)


def without_port(route: Route) -> None:
    """Send what Airflow's form should have sent."""
    body: Any = route.request.post_data_json
    assert body["port"] == 0
    route.continue_(post_data=json.dumps({**body, "port": None}))

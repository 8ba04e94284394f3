"""Airflow finds the provider, draws the form of its connection and tests what was typed into it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aisa import __version__
from airflow_provider_aisa.provider_info import CONNECTION_FIELDS

if TYPE_CHECKING:
    from airflow_provider_aisa.sandbox import Sandbox
    from tests.airflow.support import Airflow

PACKAGE = "airflow-provider-aisa"
HOOK = "airflow_provider_aisa.hooks.aisa.AisaHook"
README = Path(__file__).parents[2] / "README.md"


def list_providers(*arguments: str) -> Any:
    """Return what `airflow providers` prints, read as JSON."""
    command = [sys.executable, "-m", "airflow", "providers", *arguments, "--output", "json"]
    # Unit test mode has something to say before the JSON.
    env = {**os.environ, "AIRFLOW__CORE__UNIT_TEST_MODE": "False"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """Run the commands side by side: each spends seconds importing Airflow."""
    commands = {
        "get": ["get", PACKAGE],
        "hooks": ["hooks"],
        "widgets": ["widgets"],
        "behaviours": ["behaviours"],
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        answers = pool.map(lambda command: list_providers(*command), commands.values())
        return dict(zip(commands, answers, strict=True))


def test_providers_get_shows_the_package(shown: dict[str, Any]) -> None:
    assert shown["get"] == [{"Provider": PACKAGE, "Version": __version__}]


def test_providers_hooks_shows_the_connection_type(shown: dict[str, Any]) -> None:
    [hook] = [hook for hook in shown["hooks"] if hook["connection_type"] == "aisa"]
    assert (hook["class"], hook["package_name"], hook["hook_name"]) == (HOOK, PACKAGE, "AIsa")


def test_providers_widgets_shows_every_extra_of_the_connection(shown: dict[str, Any]) -> None:
    ours = [widget for widget in shown["widgets"] if widget["package_name"] == PACKAGE]
    assert {widget["connection_parameter_name"] for widget in ours} == {
        f"extra__aisa__{name}" for name in CONNECTION_FIELDS
    }


def test_providers_behaviours_shows_the_connection_type(shown: dict[str, Any]) -> None:
    assert {"field_behaviours": "aisa"} in shown["behaviours"]


def test_form_in_the_ui_has_our_labels_defaults_and_limits(airflow: Airflow) -> None:
    """The UI draws the form from this answer alone."""
    found: Any = airflow.api("GET", "/ui/connections/hook_meta")
    [form] = [form for form in found if form["connection_type"] == "aisa"]
    fields = form["standard_fields"]
    assert (fields["host"]["title"], fields["password"]["title"]) == ("Base URL", "API key *")
    assert [name for name in ("login", "port", "url_schema") if not fields[name]["hidden"]] == []
    extras = {name: (field["value"], field["schema"]) for name, field in form["extra_fields"].items()}
    assert list(extras) == list(CONNECTION_FIELDS)
    assert extras["timeout"] == (
        300,
        {"type": ["integer", "null"], "default": 300, "minimum": 1, "title": "Timeout"},
    )


def test_test_button_says_that_a_good_key_works_and_bills_nothing(airflow: Airflow, gateway: Sandbox) -> None:
    answer = press_test(airflow, gateway, gateway.api_key)
    assert answer["status"] is True
    assert "Nothing was billed" in answer["message"]


def press_test(airflow: Airflow, gateway: Sandbox, key: str) -> dict[str, Any]:
    """Test a connection as the form does, and check that it costs nothing."""
    billed = gateway.billed
    form = {"connection_id": "typed_in", "conn_type": "aisa", "host": gateway.base_url, "password": key}
    answer = airflow.api("POST", "/api/v2/connections/test", json=form)
    assert gateway.billed == billed
    return answer


def test_test_button_says_that_a_bad_key_is_refused(airflow: Airflow, gateway: Sandbox) -> None:
    answer = press_test(airflow, gateway, "sk-aisa-wrong")
    assert answer["status"] is False
    assert "refuses the API key (401 invalid_api_key)" in answer["message"]
    assert "sk-aisa-wrong" not in answer["message"]


def test_command_that_readme_names_tests_a_saved_connection(gateway: Sandbox) -> None:
    """It is the way around a Test button that sends a wrong port."""
    [command] = re.findall(r"`(AIRFLOW__CORE__TEST_CONNECTION=.*?)`", README.read_text())
    setting, *arguments = command.split()
    name, _, value = setting.partition("=")
    env = {**os.environ, "AIRFLOW_CONN_AISA_DEFAULT": gateway.connection, name: value}

    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False, env=env
    )

    assert (done.returncode, "Connection success!" in done.stdout) == (0, True), done.stdout + done.stderr

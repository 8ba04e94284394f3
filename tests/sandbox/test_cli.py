from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from airflow_provider_aisa.sandbox.cli import main
from airflow_provider_aisa.sandbox.faults import KINDS
from tests.sandbox.conftest import SEEDREAM, run

COMMAND = ["-W", "error", "-m", "airflow_provider_aisa.sandbox", "--port"]


class Terminal:
    """A sandbox in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        self.process = process
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("  ledger"):
                break
        self.banner = "".join(lines)
        self.base_url = self.find(r"gateway +(\S+)")
        self.headers = {"Authorization": f"Bearer {self.find(r'API key +(.+)')}"}

    def find(self, pattern: str) -> str:
        match = re.search(pattern, self.banner)
        assert match, self.banner
        return match[1]

    def generate(self, **fields: object) -> httpx.Response:
        body = {"model": SEEDREAM, "prompt": "x", **fields}
        url = f"{self.base_url}/images/generations"
        return httpx.post(url, json=body, headers=self.headers, trust_env=False)

    def end(self, number: signal.Signals) -> str:
        """Send a signal and return what was printed since the banner; the exit code must be 0."""
        self.process.send_signal(number)
        assert self.process.stdout
        assert self.process.stderr
        output, errors = self.process.stdout.read(), self.process.stderr.read()
        assert (self.process.wait(timeout=10), errors) == (0, "")
        return output


@contextlib.contextmanager
def terminal(*options: str) -> Iterator[Terminal]:
    command = [sys.executable, *COMMAND, "0", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield Terminal(process)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_total_and_exit_code_0(number: signal.Signals) -> None:
    with terminal() as shell:
        link = shell.generate(n=2).json()["data"][0]["url"]
        httpx.get(link, trust_env=False)
        httpx.get(link, headers=shell.headers, trust_env=False)
        shell.generate(size="1x1")
        lines = shell.end(number).splitlines()
    assert len(lines) == 7
    assert lines[1].endswith("POST /v1/images/generations  200  2 images billed, $0.080")
    assert re.search(r"GET  /images/seedream/\S+\.png  200  image host$", lines[2])
    assert lines[3].endswith("200  credentials seen: authorization")
    assert lines[4].endswith("POST /v1/images/generations  400  not billed")
    assert lines[6] == "2 images billed, $0.080: what AIsa would have charged"


def test_the_printed_connection_is_what_airflow_reads() -> None:
    with terminal("--api-key", "it's mine") as shell:
        (export,) = re.findall(r"export .*", shell.banner)
        assignment = shlex.split(export)[1]
    connection = json.loads(assignment.removeprefix("AIRFLOW_CONN_AISA_DEFAULT="))
    assert connection == {"conn_type": "aisa", "host": shell.base_url, "password": "it's mine"}


def test_the_printed_curl_command_injects_a_fault() -> None:
    with terminal() as shell:
        command = shlex.split(shell.find(r"a fault +((?:.*\\\n)*.*)"))
        assert (command[0], command[2], command[4]) == ("curl", "-H", "-d")
        name, value = command[3].split(": ")
        answer = httpx.post(command[1], content=command[5], headers={name: value}, trust_env=False)
        assert answer.json()["pending"][0]["kind"] == "rate_limited"
        assert [shell.generate().status_code for _ in range(3)] == [429, 429, 200]


def test_options_reach_the_sandbox() -> None:
    options = "--latency 0.01 --image-format jpeg --image-bytes 300000 --link-ttl 60 --requests-per-minute 9"
    with terminal(
        *options.split(),
        "--max-in-flight",
        "2",
        "--gemini-requests-per-minute",
        "7",
        "--fault",
        "server_error:2",
    ) as shell:
        url = shell.base_url.removesuffix("/v1") + "/_sandbox/settings"
        settings = httpx.get(url, trust_env=False).json()
        statuses = [shell.generate().status_code for _ in range(3)]
    assert statuses == [500, 500, 200]
    assert settings == {
        "api_key": "sk-aisa-sandbox",
        "latency": 0.01,
        "image_format": "jpeg",
        "image_bytes": 300_000,
        "link_ttl": 60,
        "requests_per_minute": 9,
        "max_in_flight": 2,
        "rate_window": 60,
        "gemini_requests_per_minute": 7,
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fault", "han"], "unknown fault 'han': expected one of"),
        (["--fault", "hang:x"], "times must be an integer of at least 1, got 'x'"),
        (["--fault", "hang:0"], "times must be an integer of at least 1, got 0"),
        (["--latency", "-1"], "latency must be a number of seconds"),
        (["--port", "70000"], "port must be at most 65535, got 70000"),
        (["--image-format", "gif"], "invalid choice"),
    ],
)
def test_a_wrong_option_is_exit_code_2_with_the_reason(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_a_port_in_use_is_exit_code_2() -> None:
    with terminal() as shell:
        port = str(httpx.URL(shell.base_url).port)
        done = run(*COMMAND, port)
    assert done.returncode == 2
    assert "in use" in done.stderr


def test_help_lists_every_fault_and_says_which_are_billed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    listed = dict(re.findall(r"^  (\w+) +(\S.*)$", text.partition("Faults")[2], re.MULTILINE))
    assert list(listed) == list(KINDS)
    assert listed["html_524"].endswith("[billed if asked]")
    assert listed["cut_after_billing"].endswith("[billed]")
    assert "billed" not in listed["cut_before_billing"]


def test_it_needs_no_airflow() -> None:
    code = "import sys; sys.modules['airflow'] = None; import airflow_provider_aisa.sandbox.server"
    assert run("-c", code).returncode == 0

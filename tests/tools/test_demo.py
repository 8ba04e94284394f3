from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_aisa.exceptions import AisaError
from airflow_provider_aisa.sandbox import Sandbox
from tools import demo
from tools.check_demo import find_problems
from tools.demo_gateway import NotConfirmed, check_gateway, confirm_cost, open_gateway
from tools.demo_summary import Summary, invitation
from tools.ports import find_free_ports

URL = "https://gateway.example/v1"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_demo_knows_what_the_quickstart_dag_says() -> None:
    """The cost is announced before the DAG is parsed."""
    dag = (demo.ROOT / "dags_examples" / "quickstart.py").read_text()
    names = [f'DAG("{demo.DAG_ID}"', f'task_id="{demo.TASK_ID}"', f's3_bucket="{demo.BUCKET}"']
    for said in [*names, f"n={demo.COUNT},"]:
        assert said in dag


def test_without_a_terminal_and_without_the_variable_nothing_is_paid(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(NotConfirmed, match="AISA_DEMO_YES=1"):
        confirm_cost(2, URL, {}, io.StringIO("yes\n"))
    assert "2 x $0.040 = $0.080" in capsys.readouterr().out


@pytest.mark.parametrize("answer", ["", "\n", "y\n", "no\n", "yes please\n"])
def test_anything_but_yes_is_a_no(answer: str) -> None:
    with pytest.raises(NotConfirmed, match="Nothing was paid"):
        confirm_cost(2, URL, {}, Terminal(answer))


def test_yes_on_a_terminal_or_in_the_environment_is_a_yes() -> None:
    confirm_cost(2, URL, {}, Terminal("Yes\n"))
    confirm_cost(2, URL, {"AISA_DEMO_YES": "1"}, io.StringIO())


def test_with_a_key_but_no_yes_the_gateway_sees_no_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with Sandbox() as sandbox:
        environ = {"AISA_API_KEY": sandbox.api_key, "AISA_BASE_URL": sandbox.base_url}
        with pytest.raises(NotConfirmed), open_gateway(2, environ):
            pass
        assert [request.path for request in sandbox.requests] == ["/v1/models"]
        assert sandbox.billed == 0


def test_an_unreachable_gateway_or_a_wrong_key_is_an_error_that_does_not_show_the_key() -> None:
    with Sandbox() as sandbox, pytest.raises(AisaError) as refused:
        check_gateway(sandbox.base_url, "sk-aisa-wrong")
    with pytest.raises(AisaError) as unreachable:
        check_gateway(f"http://127.0.0.1:{find_free_ports(1)[0]}/v1", "sk-aisa-wrong")
    assert "sk-aisa-wrong" not in f"{refused.value}{unreachable.value}"


def test_without_a_key_each_demo_gets_a_sandbox_with_a_key_of_its_own() -> None:
    with open_gateway(2, {}) as first, open_gateway(2, {}) as second:
        assert first.sandbox is not None
        assert json.loads(first.airflow_connection())["password"] == first.api_key != second.api_key


def test_a_second_demo_in_the_same_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "WORK", tmp_path / ".demo")
    with demo._only_one_demo(), pytest.raises(demo.DemoError, match="another demo"), demo._only_one_demo():
        pass


def test_a_failed_tasks_log_is_read_as_messages_and_exceptions() -> None:
    error = {"exc_type": "RateLimited", "exc_value": "429: wait 30 s", "frames": []}
    entries = [
        {"event": "::group::Pre task", "level": "info"},
        {"event": "Task failed", "level": "error", "error_detail": [error]},
    ]
    log = "\n".join([*map(json.dumps, entries), "not JSON"])
    assert demo.read_log(log) == ["error: Task failed", "  RateLimited: 429: wait 30 s", "not JSON"]


def test_the_key_is_found_in_whichever_file_holds_it(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "attempt=1.log").write_bytes(b"\0 sk-aisa-1 \0")
    (tmp_path / "clean").write_bytes(b"sk-aisa-")
    assert demo.find_secret("sk-aisa-1", tmp_path) == ["logs/attempt=1.log"]


@pytest.fixture
def finished(tmp_path: Path) -> Summary:
    """Lay out a demo as it should be in tmp_path."""
    (tmp_path / "demo-images").mkdir()
    images: list[dict[str, Any]] = []
    for index in range(2):
        path = tmp_path / "demo-images" / f"{index}.png"
        Image.new("RGB", (2048, 2048), (index, 0, 0)).save(path)
        content = path.read_bytes()
        facts = {"content_type": "image/png", "width": 2048, "height": 2048, "size": "2048x2048"}
        sha256 = hashlib.sha256(content).hexdigest()
        images.append({"uri": f"s3://b/{index}", "bytes": len(content), "sha256": sha256, **facts})
    return Summary(
        gateway="the sandbox",
        airflow_version="3.3.2",
        dag_id="quickstart",
        run_id="manual__1",
        result={"images": images, "usage": {"generated_images": 2, "output_tokens": 32768}, "cost_usd": 0.08},
        files=["demo-images/0.png", "demo-images/1.png"],
        billed=2,
        seconds=30,
    )


def test_a_demo_as_it_should_be_has_no_problem(tmp_path: Path, finished: Summary) -> None:
    finished.write(tmp_path / "summary.json")
    assert find_problems(tmp_path, Summary.read(tmp_path / "summary.json")) == []


def test_a_tampered_image_is_found(tmp_path: Path, finished: Summary) -> None:
    path = tmp_path / "demo-images" / "1.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "demo-images/1.png: does not match its SHA-256" in find_problems(tmp_path, finished)


def test_a_missing_an_extra_a_truncated_and_a_mislabelled_file_are_found(
    tmp_path: Path, finished: Summary
) -> None:
    folder = tmp_path / "demo-images"
    content = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(content[:-100])
    problems = "\n".join(find_problems(tmp_path, finished))
    assert "cannot be decoded" in problems
    assert f"has {len(content) - 100} bytes, not {len(content)}" in problems

    finished.result["images"][0]["content_type"] = "image/jpeg"
    assert "is no image/jpeg" in "\n".join(find_problems(tmp_path, finished))

    (folder / "0.png").rename(folder / "other.png")
    assert "holds" in find_problems(tmp_path, finished)[0]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"usage": {"generated_images": 3}}, "3 images in the gateway's usage, not 2"),
        ({"cost_usd": 0.12}, "the cost is 0.12, not 2 x 0.04"),
        ({"images": []}, "0 images in the result, not 2"),
    ],
)
def test_a_wrong_count_or_cost_is_found(
    tmp_path: Path, finished: Summary, wrong: dict[str, Any], problem: str
) -> None:
    finished.result.update(wrong)
    assert problem in find_problems(tmp_path, finished)


def test_the_report_names_every_image_its_copy_and_the_cost(finished: Summary) -> None:
    report = finished.report()
    for line in ["s3://b/0", "demo-images/1.png", "output_tokens 32,768", "$0 (with a real key", "$0.080"]:
        assert line in report
    assert ".demo/journal.json" not in report


def test_a_demo_that_is_kept_says_whether_each_run_is_paid_for(finished: Summary) -> None:
    free = invitation(finished, "http://127.0.0.1:1", "admin", "hunter2")
    paid = invitation(replace(finished, billed=None), "http://127.0.0.1:1", "admin", "hunter2")
    assert "  the run                   http://127.0.0.1:1/dags/quickstart/runs/manual__1\n" in free
    assert "  log in as                 admin, with the password hunter2\n" in free
    assert "free of charge" in free
    assert "each run of a DAG is paid for" in paid
    assert free.endswith("Press Ctrl-C to stop everything.")
    assert paid.endswith("Press Ctrl-C to stop everything. All images are saved first.")

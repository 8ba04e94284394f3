"""The contract is `openapi.yaml`, AIsa's own document: schemathesis holds the sandbox to every word of it."""

from __future__ import annotations

import json
from pathlib import Path

from airflow_provider_aisa.sandbox import Sandbox
from tests.sandbox.conftest import run

DOCUMENT = Path(__file__).with_name("openapi.yaml")
# What the document says about `size` in its prose, and the sandbox's bound of `n`, as schema.
PROSE = {
    "example: 2048x2048\n": "enum: [2048x2048, 1920x1920, 2304x1600, 2560x1920]\n",
    "minimum: 1\n": "maximum: 64\n",
}


#: AIsa's own documents of the two other routes, as they are in its public repository `AIsa-team/docs`.
CHAT_DOCUMENT = Path(__file__).with_name("chat-image-generation.json")
GEMINI_DOCUMENT = Path(__file__).with_name("gemini-openapi.json")


def with_its_prose_as_schema() -> str:
    """Return the document with the lines of `PROSE` next to theirs."""
    lines: list[str] = []
    added = 0
    for line in DOCUMENT.read_text().splitlines(keepends=True):
        lines.append(line)
        if more := PROSE.get(line.lstrip()):
            lines.append(line.replace(line.lstrip(), more))
            added += 1
    assert added == len(PROSE)
    return "".join(lines)


def schemathesis(sandbox: Sandbox, document: Path, cwd: Path, *options: str) -> None:
    """Run all checks but those excluded by `options`; none may fail."""
    done = run(
        *("-m", "schemathesis.cli", "run", document, "--url", sandbox.base_url, "--no-color"),
        *("--header", f"Authorization: Bearer {sandbox.api_key}", "--seed", "20260418"),
        *("--checks", "all", "--max-examples", "150", "--continue-on-failure"),
        *("--generation-database", "none", *options),
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout
    assert len(sandbox.requests) > 100
    assert sandbox.billed > 0
    assert {request.status for request in sandbox.requests} >= {200, 400, 401, 404, 405}


def test_the_sandbox_conforms_to_the_document(aisa_sandbox: Sandbox, tmp_path: Path) -> None:
    # The document's schema allows any string as size, and its prose refuses most of them with 400: no server
    # can accept all that the schema allows. The test below runs this check as well.
    schemathesis(aisa_sandbox, DOCUMENT, tmp_path, "--exclude-checks", "positive_data_acceptance")


def test_the_sandbox_passes_every_check_when_the_prose_is_schema(
    aisa_sandbox: Sandbox, tmp_path: Path
) -> None:
    document = tmp_path / "openapi.yaml"
    document.write_text(with_its_prose_as_schema())
    schemathesis(aisa_sandbox, document, tmp_path)


def test_the_sandbox_conforms_to_the_document_of_images_in_a_chat(
    aisa_sandbox: Sandbox, tmp_path: Path
) -> None:
    """What AIsa says in prose: what a part has to hold, and 404 for a model that there is not."""
    document = json.loads(CHAT_DOCUMENT.read_text())
    operation = document["paths"]["/chat/completions"]["post"]
    operation["responses"]["404"] = {"description": "unknown_model, or a model of another route"}
    body = operation["requestBody"]["content"]["application/json"]
    message = body["schema"]["properties"]["messages"]["items"]
    part = message["properties"]["content"]["items"]
    part["required"] = ["type", "text", "image_url"]
    part["properties"]["image_url"]["required"] = ["url"]
    schemathesis(aisa_sandbox, written(document, tmp_path), tmp_path)


def test_the_sandbox_conforms_to_the_document_of_gemini(aisa_sandbox: Sandbox, tmp_path: Path) -> None:
    """What the document says in its prose, as schema: a model that exists, and parts that hold something.

    Its ``oneOf`` of two objects without a required member allows none of the parts that Gemini knows.
    """
    aisa_sandbox.gemini_requests_per_minute = None
    document = json.loads(GEMINI_DOCUMENT.read_text())
    operation = document["paths"]["/models/{model}:generateContent"]["post"]
    operation["parameters"][0]["schema"]["enum"] = ["gemini-3-pro-image-preview", "gemini-2.5-flash-image"]
    parts = document["components"]["schemas"]["Content"]["properties"]["parts"]["items"]
    text = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}
    parts.clear()
    parts.update(text)
    schemathesis(aisa_sandbox, written(document, tmp_path), tmp_path)


def written(document: object, folder: Path) -> Path:
    """Put a document into a file."""
    path = folder / "openapi.json"
    path.write_text(json.dumps(document))
    return path

"""What README and docs show is what the code does."""

from __future__ import annotations

import inspect
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook

from airflow_provider_aisa import exceptions, metrics
from airflow_provider_aisa.core.batch.progress import Speedometer, Tally
from airflow_provider_aisa.core.batch.spec import FIELDS
from airflow_provider_aisa.exceptions import AisaError
from airflow_provider_aisa.operators.batch import SeedreamBatchOperator
from airflow_provider_aisa.operators.seedream import SeedreamGenerateOperator
from airflow_provider_aisa.provider_info import CONNECTION_FIELDS, get_provider_info
from airflow_provider_aisa.sandbox import Fault

if TYPE_CHECKING:
    from tests.operators.conftest import Desk

from tests.operators.conftest import desk

__all__ = ["desk"]

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BATCHES = (ROOT / "docs" / "batches.md").read_text()
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def blocks(language: str, document: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document, re.DOTALL)


def rows(heading: str, document: str = README) -> dict[str, list[str]]:
    """Return the cells of the tables below a heading, by the name in the first cell."""
    section = document.partition(f"\n## {heading}\n")[2]
    lines = re.findall(r"^\| ?(.*?) ?\|$", section.partition("\n## ")[0], re.MULTILINE)
    return {line.split("|")[0].strip(" `"): [cell.strip() for cell in line.split("|")] for line in lines}


def test_the_parameter_table_is_the_operators_signature() -> None:
    table = rows("Parameters")
    parameters = inspect.signature(SeedreamGenerateOperator.__init__).parameters
    documented = {name for name in table if name in parameters}

    own = set(parameters) - {"self", "kwargs", "aisa_conn_id", "aws_conn_id"}
    assert documented == own
    for name in own:
        assert (table[name][1] == "●") is (name in SeedreamGenerateOperator.template_fields)


def test_the_batchs_parameter_table_and_the_first_one_are_its_signature() -> None:
    table = rows("Batches")
    parameters = inspect.signature(SeedreamBatchOperator.__init__).parameters
    documented = {name for name in table if name in parameters}
    single = set(inspect.signature(SeedreamGenerateOperator.__init__).parameters)

    assert documented == {name for name in table if name not in {"parameter", "---"}}
    assert set(parameters) - documented == single - documented - {"prompt", "deferrable"}
    for name in documented:
        assert (table[name][1] == "●") is (name in SeedreamBatchOperator.template_fields)
        default = parameters[name].default
        assert default in {None, inspect.Parameter.empty} or table[name][-1] == f"`{default}`"


def test_parameters_that_both_operators_have_are_templated_in_both() -> None:
    of_other_families = {"aspect_ratio", "image_size"}
    assert set(SeedreamBatchOperator.template_fields) - {"requests"} - of_other_families == set(
        SeedreamGenerateOperator.template_fields
    ) - {"prompt"}


def test_the_connection_table_names_every_extra_and_its_default() -> None:
    table = rows("Connections")
    for name, field in CONNECTION_FIELDS.items():
        [row] = [cells for cells in table.values() if f"`{name}`" in cells[0]]
        default = field["schema"].get("default")
        assert default is None or row[-1] == str(default)


def test_the_error_table_names_every_error_and_whether_it_is_tried_again() -> None:
    table = rows("Errors")
    documented = {name: cells[-1] for cells in table.values() for name in re.findall(r"`(\w+)`", cells[0])}
    errors = {
        name: kind
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type) and issubclass(kind, AisaError) and kind is not AisaError
    }

    assert set(documented) == set(errors)
    for name, word in documented.items():
        if word in {"yes", "no"}:
            assert errors[name].retryable is (word == "yes"), name


def test_the_tree_of_errors_in_their_module_is_the_tree() -> None:
    drawn = re.findall(r"[├└]── (\w+)", exceptions.__doc__ or "")
    errors = [kind for kind in vars(exceptions).values() if isinstance(kind, type)]

    assert sorted(drawn) == sorted(
        kind.__name__ for kind in errors if issubclass(kind, AisaError) and kind is not AisaError
    )


def test_the_documented_item_has_the_fields_that_an_item_may_have() -> None:
    [item] = [json.loads(block) for block in blocks("json", BATCHES) if '"prompt"' in block]

    assert set(item) < set(FIELDS)
    assert all(f"`{name}`" in BATCHES for name in FIELDS)


def test_the_documented_result_and_manifest_of_a_batch_have_real_fields(desk: Desk) -> None:
    [documented] = [json.loads(block) for block in blocks("json", BATCHES) if '"manifest_uri"' in block]
    table = [name for cell in rows("The result", BATCHES) for name in re.findall(r"[a-z_]+", cell)]
    result = desk.run_batch(["A red panda"])

    assert list(result) == list(documented)
    assert list(documented["usage"]) == list(result["usage"])
    assert set(desk.manifest()[0]) == set(table) - {"field"}


def test_the_documented_reader_of_a_manifest_reads_one(desk: Desk) -> None:
    [source] = [block for block in blocks("python", BATCHES) if "def missing" in block]
    desk.gateway.inject(Fault("content_refused", prompt="heron"))
    result = desk.run_batch(
        [{"id": 1, "prompt": "A panda"}, {"id": 2, "prompt": "A heron"}], on_item_failure="keep"
    )
    names: dict[str, Any] = {"json": json, "S3Hook": S3Hook}
    exec(source, names)  # noqa: S102 - that is the point

    assert names["missing"](result) == ["2"]


def test_the_documented_progress_reads_like_the_real_one() -> None:
    [shown] = re.findall(r"```\n(.*items done.*)\n```", BATCHES)
    tally = Tally(3_000, stored=854, reused=854, failed=2)
    speed = Speedometer(0.0, tally)
    tally = Tally(3_000, 1_238, 1_200, 2, images=1_238, paid_images=384, cost_usd=Decimal("49.52"))
    speed.sample(600.0, tally)

    assert speed.text(tally) == shown


def test_the_documented_metrics_are_those_that_are_told() -> None:
    table = rows("Watching it", BATCHES)
    told = set(re.findall(r'"(aisa\.[a-z_]+)"', inspect.getsource(metrics)))

    assert {name for name in table if name.startswith("aisa.")} == told


def test_the_documented_journal_reads_like_a_real_one(desk: Desk) -> None:
    text = (ROOT / "docs" / "paying-once.md").read_text()
    [documented] = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    uri = desk.run()["journal_uri"]

    shown = json.loads(documented)
    assert set(shown) <= set(desk.journal(uri))
    assert set(shown) > {"format", "version", "state", "buyer", "claim", "unknown", "history"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_sections_lead_to_a_heading(document: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", document.read_text()):
        text = (document.parent / target if target else document).read_text()
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_changelogs_newest_version_is_the_packages() -> None:
    newest = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]

    assert [newest] == get_provider_info()["versions"]

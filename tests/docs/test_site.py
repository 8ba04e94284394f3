"""The site builds without a warning, holds every page, and fetches nothing from elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.docs.blocks import ROOT
from tools import docs

if TYPE_CHECKING:
    from pathlib import Path

FETCHED = re.compile(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"?(?:https?:)?//[^>]*>")
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def site() -> Path:
    status, said = docs.build()
    assert status == 0, said
    return docs.SITE


def test_every_page_is_built_and_in_the_navigation(site: Path) -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].partition("\ntheme:")[0]
    for page in PAGES:
        name = page.relative_to(ROOT / "docs")
        assert re.search(rf": {name}$", navigation, re.MULTILINE), name
        built = site / name.with_suffix("") / "index.html" if name.stem != "index" else site / "index.html"
        assert built.exists(), name


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    """Not even a font: who reads the docs offline sees all of them, and nobody is told who reads them."""
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"?(?:https?:)?//[^>]*>", page.read_text()
        )
        assert fetched == [], page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_stay_inside_the_site(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).resolve().is_relative_to(ROOT / "docs"), target


def test_a_docstring_that_contradicts_its_signature_is_a_warning() -> None:
    """Zensical passes such warnings on and succeeds."""
    said = "griffe: module.py:1: Parameter 'x' does not appear in the function signature\nNo issues found"
    assert docs.has_warning(said)
    assert not docs.has_warning("No issues found")

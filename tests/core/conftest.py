from __future__ import annotations

import pytest

from tests.core.faces import Face


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> Face:
    """Run the test once with the client's sync methods and once with its async ones."""
    return Face(is_async=request.param == "async")

"""Who may see what: nobody without a session, nothing of a DAG that is not one's own, and no way around."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from airflow_provider_aisa.ui.access import page_status, readable_dag
from airflow_provider_aisa.ui.app import create_app

if TYPE_CHECKING:
    from tests.ui.world import World

#: Every route, and what it needs besides a DAG.
ROUTES: dict[str, dict[str, Any]] = {
    "run": {},
    "dag": {},
    "data/run": {"run_id": "run"},
    "data/dag": {},
    "image": {"run_id": "run", "task_id": "generate"},
    "thumbnail": {"run_id": "run", "task_id": "generate"},
}
PAGES = {"run", "dag"}


def routes_of(app: Any) -> list[APIRoute]:
    fastapi = app._app
    assert isinstance(fastapi, FastAPI)
    return [route for route in fastapi.routes if isinstance(route, APIRoute)]


def depends_on(route: APIRoute, function: object) -> bool:
    def found(dependant: Any) -> bool:
        return dependant.call is function or any(map(found, dependant.dependencies))

    return found(route.dependant)


def test_every_route_but_the_scripts_asks_for_the_permission_of_its_dag() -> None:
    routes = routes_of(create_app())
    guards = (readable_dag, page_status)
    unguarded = [route.path for route in routes if not any(depends_on(route, guard) for guard in guards)]

    assert unguarded == ["/static/{version}/{name}"]
    assert {route.path.lstrip("/") for route in routes} - {"static/{version}/{name}"} == set(ROUTES)


def test_no_route_writes_and_none_describes_the_others(world: World) -> None:
    app = create_app()
    methods = {method for route in routes_of(app) for method in route.methods}

    assert methods == {"GET"}
    for path in ("docs", "redoc", "openapi.json"):
        assert world.ask(path).status_code == 404


@pytest.mark.parametrize("path", ROUTES)
def test_nobody_gets_anything_without_a_session(world: World, path: str) -> None:
    world.finished_task("a/0.png")

    assert world.ask(path, None, **ROUTES[path]).status_code == 401
    assert world.ask("static/1/run.js", None).status_code == 401


@pytest.mark.parametrize("path", ROUTES)
def test_a_made_up_token_is_refused(world: World, path: str) -> None:
    world.finished_task("a/0.png")
    answer = world.ask(path, None, headers={"Cookie": "_token=made.up.token"}, **ROUTES[path])

    assert answer.status_code in {401, 403}


@pytest.mark.parametrize("path", ROUTES)
def test_a_viewer_sees_what_a_dag_made(world: World, path: str) -> None:
    world.finished_task("a/0.png")

    assert world.ask(path, **ROUTES[path]).status_code == 200


@pytest.mark.parametrize("path", ROUTES)
def test_a_dag_that_is_not_ones_own_is_403_with_nothing_of_it(world: World, path: str) -> None:
    world.dag_id = f"secret-{world.dag_id}"
    world.finished_task("a/0.png", prompt="a prompt that nobody may read")

    refused, allowed = (world.ask(path, user, **ROUTES[path]) for user in ("viewer", "admin"))
    assert (refused.status_code, allowed.status_code) == (403, 200)
    if path in PAGES:  # Their script asks for the data and is told no.
        assert refused.text == allowed.text
    else:
        assert refused.json() == {"detail": "Forbidden"}


@pytest.mark.parametrize("path", ROUTES)
def test_the_last_of_several_dags_in_a_query_is_the_one_that_is_checked_and_shown(
    world: World, path: str
) -> None:
    """A query that names two DAGs must not be checked for one and answered for the other."""
    secret = f"secret-{world.dag_id}"
    world.finished_task("a/0.png")
    own = world.dag_id
    for first, second, status in ((secret, own, 200), (own, secret, 403)):
        assert world.ask(path, dag_id=[first, second], **ROUTES[path]).status_code == status


@pytest.mark.parametrize("dag_id", ["~", "", "x" * 251])
@pytest.mark.parametrize("path", ROUTES)
def test_what_is_no_dag_has_nothing_to_show(world: World, path: str, dag_id: str) -> None:
    """Airflow takes ~ for all DAGs, whose permission is not that of any one."""
    assert world.ask(path, "admin", dag_id=dag_id, **ROUTES[path]).status_code in {404, 422}


def test_a_dag_and_a_run_that_do_not_exist_are_404(world: World) -> None:
    world.finished_task("a/0.png")
    for query in ({"dag_id": "no-such-dag"}, {"run_id": "no-such-run"}):
        for path in ("data/run", "image", "thumbnail"):
            assert world.ask(path, **{**ROUTES[path], **query}).status_code == 404, (path, query)


def test_every_answer_forbids_guessing_sharing_and_framing_by_others(world: World) -> None:
    world.finished_task("a/0.png")
    answers = [world.ask(path, **query) for path, query in ROUTES.items()]
    answers += [world.ask("static/1/run.js"), world.ask("no/such/page"), world.ask("image", None)]
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"].startswith("private")
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'self'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy


def test_pages_hold_nothing_of_the_query(world: World) -> None:
    page = world.ask("run", run_id="<script>alert(1)</script>", task_id='"><img src=x>')

    assert page.status_code == 200
    assert "alert" not in page.text
    assert "img src=x" not in page.text


@pytest.mark.parametrize(
    "name", ["../pages.py", "..%2Fpages.py", "%2e%2e/pages.py", "pages.py", "gallery.css/", "x"]
)
def test_only_scripts_and_styles_are_static_files(world: World, name: str) -> None:
    assert world.ask(f"static/1/{name}").status_code == 404


def test_scripts_and_styles_are_sent_with_their_types(world: World) -> None:
    types = {"run.js": "text/javascript", "gallery.css": "text/css", "icon.svg": "image/svg+xml"}
    for name, content_type in types.items():
        answer = world.ask(f"static/1/{name}")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith(content_type)

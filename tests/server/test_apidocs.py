"""The OpenAPI and AsyncAPI documents describe the server's routes, responses and messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest
from browsing import browsing, needs_browser
from running import Running, running
from talking import talking, two_utterances, wav

from streamser.bundle import Bundle
from streamser.server.apidocs import asyncapi_document, openapi_document
from streamser.server.app import Server

schemathesis = pytest.importorskip("schemathesis")


async def fetched(server: Server, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(server.url + path) as response:
        assert response.status == 200
        return await response.json()


async def test_every_route_but_the_pages_is_described(server: Server) -> None:
    openapi, asyncapi = await fetched(server, "openapi.json"), await fetched(server, "asyncapi.json")
    described = {*openapi["paths"], *(channel["address"] for channel in asyncapi["channels"].values())}
    served = {route.resource.canonical for route in server._runner.app.router.routes() if route.resource}
    pages = {path for path in served if "." in path} | {"/", "/docs"}
    assert served - pages == described


async def test_responses_and_messages_fit_their_schemas(server: Server) -> None:
    document = await fetched(server, "openapi.json")

    def check(name: str, value: Any, schemas: Any = document["components"]["schemas"]) -> None:
        whole = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
        jsonschema.Draft202012Validator(whole).validate(value)

    check("Models", await fetched(server, "v1/models"))
    check("Health", await fetched(server, "healthz"))
    check("Live", await fetched(server, "livez"))
    url = f"{server.url}v1/label?partials=true"
    async with aiohttp.ClientSession() as session, session.post(url, data=wav(two_utterances())) as response:
        check("Labelled", await response.json())
    async with aiohttp.ClientSession() as session, session.post(url, data=b"no sound") as response:
        check("Refusal", await response.json())
    messages = asyncapi_document("1")["components"]
    async with talking(server, sample_rate=16_000) as talker:
        await talker.end()
    for message in talker.messages:
        name = message["type"] if message["type"] in ("ready", "status", "error") else "event"
        schema = messages["messages"][name]["payload"]["$ref"].split("/")[-1]
        check(schema, message, messages["schemas"])


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


@pytest.mark.parametrize("document", [openapi_document("1"), asyncapi_document("1")], ids=["openapi", "asyncapi"])
def test_every_reference_in_the_api_documents_exists(document: dict[str, Any]) -> None:
    found = list(references(document))
    assert len(found) > 20
    for reference in found:
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


@pytest.fixture(scope="module")
def process(bundle: Bundle) -> Iterator[Running]:
    with running(bundle.path) as server:
        yield server


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_schemathesis_finds_no_request_that_breaks_the_contract(process: Running) -> None:
    from hypothesis import HealthCheck, Phase, given, settings

    @schemathesis.serializer("application/x-ndjson")
    def as_text(_: Any, value: Any) -> bytes:
        return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")

    schema = schemathesis.openapi.from_url(process.url + "openapi.json")
    checked: set[str] = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=12,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def check(case: Any) -> None:
            # 415 and 400 are the right responses to random bytes, which are no audio file, and to random text.
            case.call_and_validate(excluded_checks=[schemathesis.checks.CHECKS.get_one("positive_data_acceptance")])

        check()
        checked.add(operation.label)
    assert "POST /v1/label" in checked
    assert len(checked) >= 7


@needs_browser[0]
@needs_browser[1]
def test_the_documentation_page_needs_no_other_site(process: Running, talk: Path, tmp_path: Path) -> None:
    with browsing(process.url, talk, tmp_path) as page:
        page.driver.get(process.url + "docs")
        page.until(lambda: len(page.driver.find_elements("css selector", "article")) >= 9)
        assert "/v1/label" in page.text("#http")
        assert "/ws/stream" in page.text("#sockets")
        assert page.axe() == []
        assert page.complaints() == []

"""The API under requests made from its own description: no error inside, and every refusal has its sentence."""

# ruff: noqa: E402  # what is not installed is found out before it is imported

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra [web]")
schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")

from hypothesis import HealthCheck, given, settings

from eclip.web.settings import Limits, Settings
from serving import Served, served

CASES = int(os.environ.get("ECLIP_FUZZ", "8"))
"""Requests to each address; ECLIP_FUZZ=200 for a long run."""
EXPECTED = {200, 400, 403, 404, 405, 406, 413, 415, 422}
EVERY = list(HealthCheck)
statuses = Counter[int]()


@pytest.fixture(scope="module")
def server(tiny_name: str) -> Iterator[Served]:
    limits = Limits(file_bytes=1 << 18, pixels=100_000, memory=64 << 20, seconds=20)
    with served(Settings(models=(tiny_name,), limits=limits)) as one:
        yield one


@pytest.mark.long
def test_any_request_gets_an_answer(server: Served) -> None:
    described = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:
        own = settings(max_examples=CASES, deadline=None, derandomize=True, database=None, suppress_health_check=EVERY)
        own(given(operation.as_strategy())(check))()
    print(dict(statuses))


def check(case: Any) -> None:
    """Send a request, half of the time about an image that there is."""
    if sum(statuses.values()) % 2:
        meant(case)
    answer = case.call(headers={"Accept": "*/*"})
    statuses[answer.status_code] += 1
    said = f"{case.method} {case.path} {answer.status_code} {answer.content[:300]!r}"
    assert answer.status_code in EXPECTED, said
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error.keys() == {"type", "message", "hint"} and error["message"], said
        assert b"Traceback" not in answer.content and b"eclip/web" not in answer.content, said


def meant(case: Any) -> None:
    if isinstance(case.body, dict) and case.path.startswith("/api/v1/") and case.path != "/api/v1/images":
        if "image" in case.body:
            case.body["image"] = "example-cat"
        if "images" in case.body:
            case.body["images"] = ["example-cat"]
    if case.path_parameters and "image" in case.path_parameters:
        case.path_parameters["image"] = "example-cat"


def test_the_server_is_well_afterwards(server: Served) -> None:
    assert server.client.get("/healthz").json() == {"status": "ok"}
    body = {"images": ["example-cat"], "texts": ["a cat"]}
    assert server.client.post("/api/v1/explain", json=body).status_code == 200

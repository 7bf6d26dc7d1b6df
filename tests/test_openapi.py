"""The OpenAPI description names every route, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from backend_helpers import make_settings, make_store
from flask import Flask

from ml_backend.app import Services, create_app
from ml_backend.openapi import document

AUTOMATIC = {"HEAD", "OPTIONS"}  # Flask answers them for every route


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    with make_store(tmp_path) as store:
        settings = make_settings(tmp_path, PIXBAL_ADMIN_PASSWORD="admin-password")
        yield create_app(Services(settings, store))


def served(app: Flask) -> set[tuple[str, str]]:
    """(method, path) of every rule, in OpenAPI's way of writing parameters."""
    return {
        (method, re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - AUTOMATIC
    }


def described() -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }


def test_every_route_is_described_and_nothing_else(app: Flask) -> None:
    """Seen failing with the path /versions left out of the description, and with one too many."""
    missing, gone = served(app) - set(described()), set(described()) - served(app)
    assert not missing, (
        f"not described: {sorted(missing)}. Add an operation to ml_backend/openapi.py, or to "
        "ml_backend/openapi_dashboard.py for what a browser asks for; the fuzz test then tries it."
    )
    assert not gone, f"described, but not served: {sorted(gone)}. Remove it from the description."


def test_the_description_is_openapi() -> None:
    """References lead somewhere, names are there once, parameters are those of the path."""
    found = document()
    schemas = found["components"]["schemas"]
    for name in re.findall(r"#/components/schemas/(\w+)", repr(found)):
        assert name in schemas
    for name, schema in schemas.items():
        assert jsonschema_rs.meta.is_valid(schema), name
    names = [operation["operationId"] for operation in described().values()]
    assert len(set(names)) == len(names)
    for (_, path), operation in described().items():
        named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path)), path


def test_only_what_is_open_is_described_as_open(app: Flask) -> None:
    client = app.test_client()
    for (method, path), operation in described().items():
        answer = client.open(re.sub(r"{\w+}", "1", path), method=method)
        to_log_in = answer.headers.get("Location") == "/dashboard/login"
        assert (answer.status_code == 401 or to_log_in) == bool(operation["security"]), path

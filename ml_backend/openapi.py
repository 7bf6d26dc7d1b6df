"""What the backend serves, as an OpenAPI 3.1 description: `python -m ml_backend.openapi` prints it.

A test compares it with the routes both ways, and the fuzz test sends what it generates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ml_backend.bodies import MAX_PREDICT_BODY
from ml_backend.dashboard.access import COOKIE
from ml_backend.openapi_dashboard import dashboard_paths
from ml_backend.openapi_operations import OPEN, SECRET_OR_BASIC, answer, operation
from ml_backend.openapi_schemas import SCHEMAS
from ml_backend.security import SECRET_HEADER


def document() -> dict[str, Any]:
    """The description as JSON values."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PixBal for Label Studio",
            "version": "1",
            "summary": "The ML backend protocol of Label Studio 1.23, pictures, the admin's page.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {**_protocol_paths(), **dashboard_paths()},
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "secret": {"type": "apiKey", "in": "header", "name": SECRET_HEADER},
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            },
        },
    }


def _protocol_paths() -> dict[str, Any]:
    health = {200: answer("Alive, and the store answers.", "Health")}
    versions = {200: answer("Names, oldest first.", "Versions")}
    return {
        "/": {"get": operation("root", "The same as /health.", health)},
        "/health": {"get": operation("health", "Is it alive?", health)},
        "/setup": {"post": _setup()},
        "/versions": {
            "get": operation(
                "versions",
                "Names of the published versions.",
                versions,
                errors=(400,),
                parameters=[_project_parameter()],
            )
        },
        "/predict": {"post": _predict()},
        "/webhook": {"post": _webhook()},
        "/job_status": {"post": _job_status()},
        "/media/{signature}/{project}/{image_id}/{index}/{kind}.jpg": {"get": _media()},
    }


def _project_parameter() -> dict[str, Any]:
    return {
        "name": "project",
        "in": "query",
        "required": False,
        "description": "Only this project's; every project's where it is left out or empty.",
        "schema": {"type": "string", "pattern": "^([1-9][0-9]{0,17}(\\.[0-9]{1,20})?)?$"},
    }


def _setup() -> dict[str, Any]:
    return operation(
        "setup",
        "The version Label Studio shows.",
        {200: answer("The version in use; r0 before the first.", "Setup")},
        errors=(404,),
        body="SetupRequest",
    )


def _predict() -> dict[str, Any]:
    return operation(
        "predict",
        "One prediction per task, in their order.",
        {200: answer("Predictions; an empty result for a task that asks nothing.", "Predictions")},
        errors=(404, 409),
        body="PredictRequest",
        body_bytes=MAX_PREDICT_BODY,
    )


def _webhook() -> dict[str, Any]:
    return operation(
        "webhook",
        "Store an event of Label Studio and answer; it is applied later.",
        {
            200: answer("Nothing new: delivered before, or not of interest.", "Receipt"),
            201: answer("Stored for good.", "Receipt"),
        },
        errors=(404,),
        security=SECRET_OR_BASIC,
        body="WebhookRequest",
    )


def _job_status() -> dict[str, Any]:
    return operation(
        "job_status",
        "The newest round of the project, or of every project where none is named.",
        {200: answer("The round that runs, else the newest; null where there is none.", "Job")},
        errors=(404,),
        body="JobRequest",
        needs_body=False,
    )


def _media() -> dict[str, Any]:
    def part(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        return {"name": name, "in": "path", "required": True, "schema": dict(schema)}

    return operation(
        "media",
        "A picture of a region; the address is signed, so no password is asked for.",
        {200: {"description": "JPEG, kept by caches for good.", "content": {"image/jpeg": {}}}},
        errors=(404, 500),
        security=OPEN,
        parameters=[
            part("signature", {"type": "string", "pattern": "^[0-9a-f]{32}$"}),
            part("project", {"type": "integer", "minimum": 1}),
            part("image_id", {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}),
            part("index", {"type": "integer", "minimum": 0}),
            part("kind", {"type": "string", "enum": ["crop", "locator"]}),
        ],
    )


if __name__ == "__main__":
    print(json.dumps(document(), indent=2))

"""The bodies of requests and answers, as the JSON Schemas of the OpenAPI description."""

from __future__ import annotations

from typing import Any

from ml_backend.ingest import MAX_ID

ERROR = "Error"


def ref(name: str) -> dict[str, str]:
    """A reference to a schema of this file."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": properties}


TEXT: dict[str, Any] = {"type": "string"}
FLAG: dict[str, Any] = {"type": "boolean"}
WHOLE: dict[str, Any] = {"type": "integer"}
ID: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": MAX_ID}
# One zone at least: a time without any is taken as UTC.
TIME: dict[str, Any] = {"type": "string", "format": "date-time"}
PROJECT: dict[str, Any] = {
    "description": "<id>.<time of creation>, or the plain id.",
    "oneOf": [{"type": "string", "pattern": "^[1-9][0-9]{0,17}(\\.[0-9]{1,20})?$"}, ID],
}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _nullable(kind: str) -> dict[str, Any]:
    return {"type": [kind, "null"]}


_ANNOTATION = _object(
    {"id": ID, "task": ID, "updated_at": TIME, "result": _list({"type": "object"})},
    {
        "was_cancelled": FLAG,
        "created_at": TIME,
        "lead_time": {"type": ["number", "null"]},
        "completed_by": {"type": ["integer", "object", "null"]},
    },
)
_EVENT = {
    "project": _object({"id": ID}),
    "action": {
        "type": "string",
        "pattern": "^[A-Z_]{1,64}$",
        "examples": ["ANNOTATION_CREATED", "ANNOTATIONS_DELETED", "START_TRAINING"],
    },
}
_PREDICTION = _object(
    {"model_version": TEXT, "result": _list({"type": "object"}), "score": {"type": "number"}}
)

SCHEMAS: dict[str, Any] = {
    ERROR: _object({"ok": {"const": False}, "error": TEXT, "hint": TEXT, "status": WHOLE}),
    "Health": _object({"status": {"const": "UP"}, "model_class": TEXT}),
    "SetupRequest": _object({"project": PROJECT}),
    "Setup": _object({"model_version": TEXT}),
    "Versions": _object({"versions": _list(TEXT)}),
    "PredictRequest": _object(
        {
            "project": PROJECT,
            "label_config": TEXT,
            "tasks": _list(_object({"id": ID}, {"data": {"type": "object"}})),
        }
    ),
    "Predictions": _object({"results": _list(_PREDICTION)}),
    "Annotation": _ANNOTATION,
    "WebhookRequest": _object(
        _EVENT,
        {
            "annotation": ref("Annotation"),
            "annotations": _list(_object({"id": ID})),
            "task": _object({"id": ID}),
            "tasks": _list(_object({"id": ID})),
        },
    ),
    "Receipt": _object({"ok": {"const": True}, "stored": FLAG}, {"new": FLAG, "event": WHOLE}),
    "JobRequest": _object({}, {"project": PROJECT}),
    "Round": _object(
        {"project_id": ID, "number": WHOLE, "state": TEXT},
        {"error": _nullable("string"), "loss": {"type": ["number", "null"]}},
    ),
    "Job": _object(
        {
            "ok": {"const": True},
            "round": {"oneOf": [ref("Round"), {"type": "null"}]},
            "rounds": _list(ref("Round")),
        }
    ),
}

"""What the benchmarks of the backend share: a project, questions, events, secrets."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from label_config import ClassSchema, build
from ml_backend.store import Label, Project, Query, schema

PROJECT = 4
IMAGE_ID = "0123456789abcdef01234567"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
# Of these processes alone, on a temporary folder and a loopback port.
SECRETS = {
    "PIXBAL_WEBHOOK_SECRET": "secret-of-the-bench",
    "PIXBAL_BASIC_PASSWORD": "password-of-the-bench",
    "PIXBAL_MEDIA_KEY": "key-of-the-bench",
}


def site_environment(home: Path, port: int) -> dict[str, str]:
    """The whole environment of a backend on `home`."""
    return SECRETS | {
        "PIXBAL_HOME": str(home),
        "PIXBAL_PORT": str(port),
        "PIXBAL_LOG_LEVEL": "ERROR",
    }


def site_headers() -> dict[str, str]:
    """Headers with which the backend takes every request, events too."""
    pair = base64.b64encode(f"pixbal:{SECRETS['PIXBAL_BASIC_PASSWORD']}".encode()).decode()
    return {
        "Authorization": f"Basic {pair}",
        "X-Pixbal-Secret": SECRETS["PIXBAL_WEBHOOK_SECRET"],
        "Content-Type": "application/json",
    }


def site_project() -> Project:
    """A region project of CamVid's classes."""
    classes = ClassSchema.preset("camvid")
    return Project(
        id=PROJECT, title="bench", schema_json=classes.to_json(), template="region_multiclass",
        label_config=build(classes), method="seeds", side_px=32, seed=0, budget_clicks=100.0,
        train_every=None, preticks="always", train_config={}, acquisition="pixbal", created_at=NOW,
    )  # fmt: skip


def created_event(number: int) -> dict[str, Any]:
    """An ANNOTATION_CREATED event as Label Studio sends it, reduced to what is read."""
    task = {"id": number, "data": {"region": f"{IMAGE_ID}:{number}"}}
    value = {"choices": ["0", "3"]}
    result = [{"from_name": "classes", "to_name": "region", "type": "choices", "value": value}]
    annotation = {"id": number, "task": number, "result": result, "updated_at": NOW.isoformat()}
    project = {"id": PROJECT}
    kind = "ANNOTATION_CREATED"
    return {"action": kind, "annotation": annotation, "project": project, "task": task}


def predict_request(number: int) -> Mapping[str, Any]:
    """What Label Studio asks when a task is opened; the prediction lies in the store."""
    project = site_project()
    tasks = [{"id": number, "data": {"region": f"{IMAGE_ID}:{number}"}}]
    return {"project": f"{PROJECT}.1", "label_config": project.label_config, "tasks": tasks}


def fill(folder: Path, count: int, *, labelled: bool) -> None:
    """Questions 1..count, answered or open; quicker than through the store's doors."""
    query = Query(
        id=0, project_id=PROJECT, image_id=IMAGE_ID, region_index=0, regions_hash="hash", round=1,
        status="answered" if labelled else "open", task_id=None, score=1.0, expected_clicks=1.0,
        preticks=() if labelled else ("Road",), model_version="r0",
    )  # fmt: skip
    label = Label(
        annotation_id=0, project_id=PROJECT, task_id=None, query_id=None, kind="classes",
        classes=("Road",), clicks=1, lead_time_s=2.5, annotator="1", updated_at=NOW, deleted=False,
        seen_at=NOW,
    )  # fmt: skip
    numbers = range(1, count + 1)
    queries = [{**vars(query), "id": i, "region_index": i, "task_id": i} for i in numbers]
    labels = [{**vars(label), "annotation_id": i, "query_id": i, "task_id": i} for i in numbers]
    engine = create_engine(f"sqlite:///{folder}/pixbal.db")
    with engine.begin() as connection:
        connection.execute(schema.query.insert(), queries)
        if labelled:
            connection.execute(schema.label.insert(), labels)
    engine.dispose()

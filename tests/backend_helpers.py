"""Small builders for tests of the backend; every argument has a default."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from werkzeug.test import TestResponse

from label_config import ClassSchema, build
from ml_backend.settings import Settings
from ml_backend.store import Image, Label, Project, Query, Store

WEBHOOK_SECRET = "webhook-secret-of-the-tests"
BASIC_PASSWORD = "basic-password-of-the-tests"
MEDIA_KEY = "media-key-of-the-tests"
IMAGE_ID = "0123456789abcdef01234567"
REGIONS_HASH = "89abcdef0123456789abcdef"
START = datetime(2026, 11, 22, 15, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """A time, in seconds after a fixed start."""
    return START + timedelta(seconds=seconds)


def make_settings(home: Path, **environ: str) -> Settings:
    """Settings on a temporary home, secrets set; `environ` overrides by variable name."""
    base = {
        "PIXBAL_HOME": str(home),
        "LABEL_STUDIO_API_KEY": "api-key-of-the-tests",
        "PIXBAL_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "PIXBAL_BASIC_PASSWORD": BASIC_PASSWORD,
        "PIXBAL_MEDIA_KEY": MEDIA_KEY,
    }
    return Settings.from_env({**base, **environ})


def make_schema(*names: str, undefined: bool = True) -> ClassSchema:
    """A schema of classes: Road, Sky and Car where none are named."""
    return ClassSchema.of(names or ("Road", "Sky", "Car"), undefined=undefined)


def make_project(project_id: int = 4, schema: ClassSchema | None = None, **fields: Any) -> Project:
    """A region project with a label config that fits its schema."""
    schema = schema or make_schema()
    template = fields.pop("template", "region_multiclass")
    defaults: dict[str, Any] = {
        "title": "street",
        "schema_json": schema.to_json(),
        "template": template,
        "label_config": build(schema, template),
        "method": "seeds",
        "side_px": 32,
        "seed": 0,
        "budget_clicks": 100.0,
        "train_every": None,
        "preticks": "always",
        "train_config": {},
        "acquisition": "pixbal",
        "created_at": START,
    }
    return Project(id=project_id, **{**defaults, **fields})


def make_image(project_id: int = 4, image_id: str = IMAGE_ID, **fields: Any) -> Image:
    """A readable pool image; its files do not exist unless given."""
    defaults: dict[str, Any] = {
        "source": f"photos/{image_id}.png",
        "path": f"images/{image_id}.png",
        "width": 64,
        "height": 48,
        "regions_path": f"regions/{image_id}.npz",
        "regions_hash": REGIONS_HASH,
        "region_count": 12,
        "split": "pool",
    }
    return Image(project_id=project_id, image_id=image_id, **{**defaults, **fields})


def make_query(project_id: int = 4, region_index: int = 0, **fields: Any) -> Query:
    """A planned query; the store gives it an id."""
    defaults: dict[str, Any] = {
        "id": 0,
        "image_id": IMAGE_ID,
        "regions_hash": REGIONS_HASH,
        "round": 1,
        "status": "planned",
        "task_id": None,
        "score": 1.0,
        "expected_clicks": 1.0,
        "preticks": (),
        "model_version": "r0",
    }
    return Query(project_id=project_id, region_index=region_index, **{**defaults, **fields})


def make_label(annotation_id: int = 1, **fields: Any) -> Label:
    """A live label that names Road."""
    defaults: dict[str, Any] = {
        "project_id": 4,
        "task_id": 1,
        "query_id": 1,
        "kind": "classes",
        "classes": ("Road",),
        "clicks": 1,
        "lead_time_s": 2.5,
        "annotator": "1",
        "updated_at": at(0),
        "deleted": False,
        "seen_at": at(0),
    }
    return Label(annotation_id=annotation_id, **{**defaults, **fields})


def make_store(folder: Path, *projects: Project, open_tasks: int = 0) -> Store:
    """A migrated SQLite store with projects (one, id 4, where none is given).

    The first project gets `open_tasks` open queries: task 1 asks region 0, and so on.
    """
    store = Store.open(f"sqlite:///{folder}/pixbal.db")
    for project in projects or (make_project(),):
        store.add_project(project)
    first = (projects or (make_project(),))[0].id
    open_queries(store, first, open_tasks)
    return store


def open_queries(store: Store, project_id: int, count: int) -> None:
    """Queries about regions 0..count-1, asked by tasks 1..count."""
    store.plan_queries([make_query(project_id, index) for index in range(count)])
    planned = store.queries(project_id, status="planned")
    store.set_task_ids({query.id: query.region_index + 1 for query in planned})


def basic_auth(user: str = "pixbal", password: str = BASIC_PASSWORD) -> dict[str, str]:
    """The header of HTTP basic authentication."""
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def assert_error(response: TestResponse, status: int) -> dict[str, Any]:
    """The one shape every error has; returns it."""
    assert response.status_code == status, response.get_data(as_text=True)[:500]
    assert response.mimetype == "application/json"
    body: dict[str, Any] = response.get_json()
    assert set(body) == {"ok", "error", "hint", "status"}
    assert body["ok"] is False
    assert body["status"] == status
    assert body["error"]
    assert "Traceback" not in response.get_data(as_text=True)
    return body

"""Bodies, labelling setups and class names that were made to do harm."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from backend_helpers import (
    assert_error,
    basic_auth,
    make_image,
    make_project,
    make_schema,
    make_settings,
    make_store,
)
from flask.testing import FlaskClient

from label_config import read
from ml_backend.app import Services, create_app
from ml_backend.export import mask_name


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    with make_store(tmp_path) as store:
        yield create_app(Services(make_settings(tmp_path), store)).test_client()


class Endless(io.RawIOBase):
    """A body without an end; counts what was read of it."""

    def __init__(self) -> None:
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        buffer[:] = b" " * len(buffer)
        self.count += len(buffer)
        assert self.count < 200 * 2**20, "read without end"
        return len(buffer)


@pytest.mark.guarantee(15)
@pytest.mark.parametrize(
    ("path", "megabytes"), [("/webhook", 10), ("/setup", 10), ("/predict", 64)]
)
def test_a_body_without_an_end_is_left_at_the_cap(
    client: FlaskClient, path: str, megabytes: int
) -> None:
    """Chunked, no length declared. Seen failing with the cap of read_json taken out."""
    body = Endless()
    response = client.post(
        path,
        headers={**basic_auth(), "Content-Type": "application/json"},
        environ_overrides={"wsgi.input": body, "wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )
    assert_error(response, 413)
    assert body.count <= (megabytes + 2) * 2**20


NAMED = '<!DOCTYPE v [<!ENTITY a SYSTEM "file:///etc/passwd">]><View>&a;</View>'
LAUGHS = (
    "<!DOCTYPE v [<!ENTITY a0 'ha'>"
    + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 12))
    + "]><View>&a11;</View>"
)
CHOICES = "".join(f"<Choice value='c{n}' alias='{n}'/>" for n in range(10_000))


@pytest.mark.guarantee(20)
@pytest.mark.parametrize(
    ("setup", "said"),
    [
        (NAMED, "document type or an entity"),
        (LAUGHS, "document type or an entity"),
        ("<?xml version='1.0'?><!DOCTYPE v SYSTEM 'http://127.0.0.1:9/x.dtd'><View/>", "document"),
        (
            f"<View><Choices name='classes' toName='region'>{CHOICES}</Choices></View>",
            "200 classes",
        ),
        ("<View><xi:include href='file:///etc/passwd'/></View>", "not XML"),
        ("<a>" * 4000 + "</a>" * 4000, "control"),
        ("<View>" * 5000, "not XML"),
    ],
)
def test_hostile_setups_are_refused_with_a_reason(
    client: FlaskClient, setup: str, said: str
) -> None:
    """As Label Studio would send them. Seen failing with the check of safe_xml.parse taken out."""
    body = {"project": "4.1", "label_config": setup, "tasks": []}
    error = assert_error(client.post("/predict", json=body, headers=basic_auth()), 409)
    assert said in error["error"]
    assert "root:" not in str(error)


@pytest.mark.guarantee(20)
@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "\"'&<>", "]]>", "<!--", "&lt;", "日本"]
)
def test_hostile_class_names_stay_names(tmp_path: Path, name: str) -> None:
    """Through the setup and back, and through a prediction. Seen failing with html.escape taken
    out of the builder (the setup was no XML any more)."""
    schema = make_schema(name, "Road")
    project = make_project(schema=schema)
    root = ElementTree.fromstring(project.label_config)
    assert "script" not in {element.tag for element in root.iter()}
    for element in root.iter("Choice"):
        assert "<script" not in element.get("html", "")
    assert read(project.label_config).schema == schema
    with make_store(tmp_path, project, open_tasks=1) as store:
        store.update_query_scores([replace(store.queries(4)[0], preticks=(name,))])
        client = create_app(Services(make_settings(tmp_path), store)).test_client()
        body = {"project": "4.1", "label_config": project.label_config, "tasks": [{"id": 1}]}
        found = client.post("/predict", json=body, headers=basic_auth()).get_json()["results"]
    # Stored by alias: no name from outside comes back at all.
    assert found[0]["result"][0]["value"] == {"choices": ["0"]}


@pytest.mark.guarantee(17)
@pytest.mark.parametrize(
    "source",
    ["../../etc/passwd", "/etc/passwd.png", "a\0b.png", "..", "s3://bucket/../x.png?sig=/../..",
     "x" * 500, "\n", "", "C:\\..\\x", "日本/語" * 100],
)  # fmt: skip
def test_masks_are_written_into_their_folder(tmp_path: Path, source: str) -> None:
    """Whatever task data call the image. Seen failing with the name of the source as it is."""
    path = tmp_path / mask_name(make_image(source=source))
    path.write_bytes(b"")
    assert path.resolve().parent == tmp_path.resolve()
    assert list(tmp_path.iterdir()) == [path]

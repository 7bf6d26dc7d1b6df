"""What was acknowledged is there after the death of the process that took it."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from ml_backend.bench_site import (
    PROJECT,
    created_event,
    fill,
    site_environment,
    site_headers,
    site_project,
)
from ml_backend.managed import LOOPBACK
from ml_backend.processes import BackendServer, free_port
from ml_backend.store import Store

KILLS = 10


@pytest.mark.slow
@pytest.mark.guarantee(2)
def test_an_acknowledged_event_is_there_after_a_kill(
    tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """SIGKILL of every web process the moment the answer has come, ten times.

    Seen failing with events acknowledged first and stored two seconds later.
    """
    url = f"sqlite:///{tmp_path}/pixbal.db"
    with Store.open(url) as store:
        store.add_project(site_project())
    fill(tmp_path, KILLS, labelled=False)
    acknowledged = []
    for number in range(1, KILLS + 1):
        port = free_port()
        backend = BackendServer(
            env=site_environment(tmp_path, port), log=tmp_path / "backend.log", port=port, workers=2
        )
        with backend:
            connection = HTTPConnection(LOOPBACK, port, timeout=30)
            body = json.dumps(created_event(number))
            connection.request("POST", "/webhook", body, site_headers())
            status = connection.getresponse().status
            backend.kill()
            connection.close()
        assert status == 201
        acknowledged.append(number)
    with Store.open(url) as store:
        events = store.pending_events()
    assert [event.payload["annotation"]["id"] for event in events] == acknowledged
    assert {event.project_id for event in events} == {PROJECT}
    record_property("killed_after_acknowledgement", KILLS)

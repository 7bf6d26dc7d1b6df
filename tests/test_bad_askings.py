"""What stands in a task as `asking` may be anything: edited by hand, or by another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backend_helpers import make_project, make_query, make_store

from ml_backend.copies import question, question_of
from ml_backend.failures import reason_of
from ml_backend.protocol import region_predictions

STRANGE = [True, False, "1", 1.0, 0, -1, 10**30, None, [1], {"a": 1}]


@pytest.mark.parametrize("asking", STRANGE)
def test_a_task_with_a_strange_asking_asks_nothing(tmp_path: Path, asking: Any) -> None:
    """It is no copy of a question, and gets an empty prediction.

    Seen failing with `true` taken as 1, which PostgreSQL answers with an error instead.
    """
    with make_store(tmp_path) as store:
        project = make_project()
        store.plan_queries([make_query(preticks=("Road",))])
        (query,) = store.queries(project.id)
        data = {
            "region": f"{query.image_id}:{query.region_index}",
            "regions_hash": query.regions_hash,
            "asking": 1,
        }
        (known,) = region_predictions(store, project, [{"id": 7, "data": data}])
        assert known["result"]
        assert question_of({"data": data}) == question(query)
        strange = {**data, "asking": asking}
        (found,) = region_predictions(store, project, [{"id": 7, "data": strange}])
        assert found["result"] == []
        assert question_of({"data": strange}) != question(query)


def test_a_reason_can_be_stored_in_every_database() -> None:
    """PostgreSQL takes no zero byte: the end of a round could never be recorded.

    Seen failing with the text as it came.
    """
    assert "\0" not in reason_of(ValueError("a\0b"))
    assert reason_of(ValueError("a\0b")) == "ValueError: a\\0b"

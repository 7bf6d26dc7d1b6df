"""Task JSON of a region query."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from ml_backend.errors import BackendError
from ml_backend.tasks import task_payload
from training.regions import RegionId


@dataclass(frozen=True)
class StoredQuery:
    image_id: str = "0f" * 12
    region_index: int = 84
    regions_hash: str = "ab" * 12
    round: int = 3
    score: float = 0.75
    asking: int = 2


PREDICTION = {"result": [], "score": -0.75, "model_version": "r3"}


def test_a_task_names_the_region_the_pictures_and_the_prediction():
    task = task_payload(
        StoredQuery(), ("http://b/c.jpg", "http://b/l.jpg"), PREDICTION, image="a.png"
    )
    assert task == {
        "data": {
            "crop": "http://b/c.jpg",
            "locator": "http://b/l.jpg",
            "region": "0f0f0f0f0f0f0f0f0f0f0f0f:84",
            "regions_hash": "abababababababababababab",
            "asking": 2,
            "image": "a.png",
            "round": 3,
            "priority": 0.75,
        },
        "predictions": [{"result": [], "score": -0.75, "model_version": "r3"}],
    }
    assert RegionId.parse(task["data"]["region"]) == ("0f" * 12, 84)
    json.dumps(task, allow_nan=False)


def test_without_a_prediction_the_list_is_empty():
    assert task_payload(StoredQuery(), ("c", "l"), None)["predictions"] == []


def test_the_prediction_handed_in_is_not_shared():
    prediction = dict(PREDICTION)
    task_payload(StoredQuery(), ("c", "l"), prediction)["predictions"][0]["score"] = 0
    assert prediction == PREDICTION


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_json_cannot_hold_is_refused(score):
    with pytest.raises(BackendError, match="finite"):
        task_payload(replace(StoredQuery(), score=score), ("c", "l"), None)
    with pytest.raises(BackendError, match="finite"):
        task_payload(StoredQuery(), ("c", "l"), {**PREDICTION, "score": score})

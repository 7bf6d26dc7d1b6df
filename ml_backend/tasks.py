"""A question -> the task that Label Studio imports."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from ml_backend.errors import BackendError
from training.regions import RegionId


class RegionQuery(Protocol):
    """What a task needs to know of a stored query."""

    @property
    def image_id(self) -> str: ...
    @property
    def region_index(self) -> int: ...
    @property
    def regions_hash(self) -> str: ...
    @property
    def round(self) -> int: ...
    @property
    def score(self) -> float: ...
    @property
    def asking(self) -> int: ...


def task_payload(
    query: RegionQuery,
    urls: tuple[str, str],
    prediction: Mapping[str, Any] | None,
    *,
    image: str = "",
) -> dict[str, Any]:
    """Label Studio task of a region query, with its prediction.

    `data.region` ("image_id:index") and `data.regions_hash` say for good which pixels were asked
    about, `data.asking` for the how-manieth time; `data.priority` is the score, higher first, for
    sorting by hand in the data manager.

    Args:
        urls: where the browser finds the crop and the locator.
        prediction: {result, score, model_version}; None leaves it out, and such a task comes last.
        image: file name shown to people.

    Raises: BackendError if the score is not finite: JSON has no such number.
    """
    crop, locator = urls
    scores = [query.score] if prediction is None else [query.score, prediction["score"]]
    if not all(math.isfinite(score) for score in scores):
        raise BackendError(
            f"Region {RegionId(query.image_id, query.region_index)} has the scores {scores}; "
            "expected finite numbers.",
            hint="A region that cannot be asked has no query: leave it out when choosing.",
        )
    data = {
        "crop": crop,
        "locator": locator,
        "region": str(RegionId(query.image_id, query.region_index)),
        "regions_hash": query.regions_hash,
        "asking": query.asking,
        "image": image,
        "round": query.round,
        "priority": query.score,
    }
    return {"data": data, "predictions": [] if prediction is None else [dict(prediction)]}

"""A stored question -> the prediction Label Studio shows and orders by."""

from __future__ import annotations

from typing import Any

from label_config import Answer, ClassSchema, LabelConfigError, answer_result
from ml_backend.errors import BackendError
from ml_backend.queue_score import queue_score
from ml_backend.store import Query

NO_MODEL = "r0"
# Above every queue_score: what nobody chose comes after what somebody did.
LAST = 1.0


def region_prediction(
    query: Query, schema: ClassSchema, template: str, model_version: str
) -> dict[str, Any]:
    """Ticks in advance and score of a question: {result, score, model_version}.

    A control question shows no ticks; which ones it would have shown, its row knows.

    Label Studio hands out the lowest score first, and drops scores beyond [0, 1]: `queue_score`.

    Raises:
        BackendError: a tick is no class of the schema, the template has no ticks, or the
            score is not finite.
    """
    ticks = () if query.control else ticks_of(query, template)
    answer = Answer("classes", ticks) if ticks else Answer("empty")
    try:
        result = answer_result(answer, schema, template)
    except LabelConfigError as error:
        raise BackendError(
            f"Query {query.id} cannot be predicted: {error}", error.hint, status=409
        ) from error
    return {"result": result, "score": queue_score(query.score), "model_version": model_version}


def ticks_of(query: Query, template: str) -> tuple[str, ...]:
    """What is ticked in advance where the question is no control."""
    if template == "region_dominant" and len(query.preticks) > 1:
        # One choice only: which of them is larger is not known here, and a guess would mislead.
        return ()
    return query.preticks


def no_prediction(model_version: str) -> dict[str, Any]:
    """For a task that asks nothing known: no ticks, and the score of the last place."""
    return {"result": [], "score": LAST, "model_version": model_version}

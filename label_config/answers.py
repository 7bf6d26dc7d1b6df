"""Label Studio's result JSON <-> what the labeller said about a region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from label_config.classes import ClassSchema, shorten
from label_config.errors import LabelConfigError
from label_config.layouts import NOTHING_ALIAS, UNSURE_ALIAS, Layout, layout

Kind = Literal["classes", "nothing", "unsure", "empty"]
_CHECK_CONFIG = "Compare the project's labelling configuration with the template."


@dataclass(frozen=True)
class Answer:
    """What was said: names of classes, "Nothing listed", "Can't tell", or nothing at all.

    Raises: LabelConfigError unless `classes` holds distinct names exactly for kind "classes".
    """

    kind: Kind
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise LabelConfigError(
                f"No kind of answer {self.kind!r}.", hint=f"Kinds: {', '.join(get_args(Kind))}."
            )
        if bool(self.classes) != (self.kind == "classes"):
            raise LabelConfigError(
                f"An answer of kind {self.kind!r} came with the classes {self.classes!r}.",
                hint="Kind 'classes' needs at least one class, the others have none.",
            )
        if len(set(self.classes)) != len(self.classes):
            raise LabelConfigError(f"A class came twice in {shorten(self.classes)}.")

    @property
    def clicks(self) -> int:
        """Ticks it took: one per class, 1 for "nothing" and "unsure", 0 for "empty"."""
        return len(self.classes) if self.kind == "classes" else int(self.kind != "empty")


def read_answer(
    result: Sequence[Mapping[str, Any]], schema: ClassSchema, template: str = "region_multiclass"
) -> Answer:
    """Answer in an annotation's or prediction's `result`; the inverse of `answer_result`.

    The choices exclude each other only here, not on the screen: "Can't tell" wins over "Nothing
    listed", which wins over classes. Results of other kinds of control (a comment) do not count.

    Raises: LabelConfigError for an unknown choice or choices of another control, for two classes
    in a template with one, for templates whose answers are not one per task.
    """
    plan = _region_layout(template)
    ticked = []
    for item in _items(result):
        if item.get("type") == "choices":
            ticked.extend(_ticked(item, plan))
    return _answer(ticked, schema, plan)


def answer_result(
    answer: Answer, schema: ClassSchema, template: str = "region_multiclass"
) -> list[dict[str, Any]]:
    """Label Studio's `result` for an answer; [] when it is empty.

    Raises: LabelConfigError for classes that the schema or the template does not allow.
    """
    plan = _region_layout(template)
    aliases = _aliases(answer, schema, plan)
    return [_choices(aliases, plan)] if aliases else []


def read_region_answers(
    result: Sequence[Mapping[str, Any]], schema: ClassSchema
) -> dict[str, Answer]:
    """Answer of each outline in an `image_regions` result, by the outline's id.

    An outline without ticks is an empty answer. Raises: LabelConfigError as `read_answer`, and for
    ticks without an outline's id.
    """
    plan = layout("image_regions")
    ticked: dict[str, list[str]] = {}
    for item in _items(result):
        ids = ticked.setdefault(str(item.get("id") or ""), [])
        if item.get("type") == "choices":
            ids.extend(_ticked(item, plan))
    if ticked.pop("", None):
        raise LabelConfigError("Ticks came without the id of an outline.", hint=_CHECK_CONFIG)
    return {key: _answer(aliases, schema, plan) for key, aliases in ticked.items()}


def region_answer_result(
    outline_id: str,
    points: Sequence[tuple[float, float]],
    size: tuple[int, int],
    answer: Answer,
    schema: ClassSchema,
) -> list[dict[str, Any]]:
    """Result of one read-only outline of an `image_regions` task and its answer.

    Args:
        points: corners (x, y) in percent of width and height.
        size: width and height of the image in px.
    """
    plan = layout("image_regions")
    width, height = size
    common = {
        "id": outline_id,
        "to_name": plan.to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "readonly": True,
    }
    corners = {"points": [list(point) for point in points], "closed": True}
    outline = {
        **common,
        "from_name": "outline",
        "type": "polygonlabels",
        "value": {**corners, "polygonlabels": ["region"]},
    }
    aliases = _aliases(answer, schema, plan)
    if not aliases:
        return [outline]
    choices = {**common, **_choices(aliases, plan)}
    choices["value"] = {**corners, **choices["value"]}
    return [outline, choices]


def _region_layout(template: str) -> Layout:
    plan = layout(template)
    if plan.choice is None or plan.per_region:
        raise LabelConfigError(
            f"The template {template!r} has more than one answer per task.",
            hint="image_regions: read_region_answers; image_masks: brush.read_masks.",
        )
    return plan


def _choices(aliases: list[str], plan: Layout) -> dict[str, Any]:
    return {
        "from_name": plan.from_name,
        "to_name": plan.to_name,
        "type": "choices",
        "value": {"choices": aliases},
    }


def _items(result: object) -> list[Mapping[str, Any]]:
    if isinstance(result, Sequence) and not isinstance(result, str | bytes):
        items = list(result)
        if all(isinstance(item, Mapping) for item in items):
            return items
    raise LabelConfigError(
        f"Expected a result as a list of objects, got {result!r:.200}.",
        hint="Pass the annotation's 'result' as Label Studio sent it.",
    )


def _ticked(item: Mapping[str, Any], plan: Layout) -> list[str]:
    if item.get("from_name") != plan.from_name:
        raise LabelConfigError(
            f"The choices come from the control {item.get('from_name')!r}, "
            f"expected {plan.from_name!r}.",
            hint=_CHECK_CONFIG,
        )
    value = item.get("value")
    choices = value.get("choices") if isinstance(value, Mapping) else None
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
        return choices
    raise LabelConfigError(
        f"Expected value.choices as a list of texts, got {value!r:.200}.", hint=_CHECK_CONFIG
    )


def _answer(ticked: list[str], schema: ClassSchema, plan: Layout) -> Answer:
    known = {str(index): name for index, name in enumerate(schema.names)}
    extras = {UNSURE_ALIAS, NOTHING_ALIAS} if schema.undefined else {UNSURE_ALIAS}
    unknown = [alias for alias in ticked if alias not in known and alias not in extras]
    if unknown:
        raise LabelConfigError(
            f"The answer holds the unknown choices {shorten(unknown)}; known are 0 to "
            f"{len(known) - 1}, {', '.join(sorted(extras))}.",
            hint=_CHECK_CONFIG,
        )
    if UNSURE_ALIAS in ticked:
        return Answer("unsure")
    if NOTHING_ALIAS in ticked:
        return Answer("nothing")
    answer = Answer(
        "classes" if ticked else "empty", tuple(known[a] for a in dict.fromkeys(ticked))
    )
    _check_count(answer, plan)
    return answer


def _aliases(answer: Answer, schema: ClassSchema, plan: Layout) -> list[str]:
    _check_count(answer, plan)
    if answer.kind == "nothing":
        if not schema.undefined:
            raise LabelConfigError(
                "These classes offer no answer 'Nothing listed'.",
                hint="Make the schema with undefined=True.",
            )
        return [NOTHING_ALIAS]
    if answer.kind == "unsure":
        return [UNSURE_ALIAS]
    return [str(schema.index(name)) for name in answer.classes]


def _check_count(answer: Answer, plan: Layout) -> None:
    if plan.choice == "single-radio" and len(answer.classes) > 1:
        raise LabelConfigError(
            f"Expected one class, got {shorten(answer.classes)}.",
            hint="region_dominant takes the class that covers most of the region.",
        )

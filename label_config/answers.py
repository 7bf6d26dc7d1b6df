"""Label Studio's result JSON <-> what the labeller said about a region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from label_config.classes import OTHER_TEXT, ClassSchema, shorten
from label_config.errors import LabelConfigError
from label_config.layouts import (
    NOTHING_ALIAS,
    OTHER_ALIAS,
    UNDEFINED_ALIASES,
    UNSURE_ALIAS,
    Layout,
    layout,
)

Kind = Literal["classes", "nothing", "unsure", "empty"]
_CHECK_CONFIG = "Compare the project's labelling configuration with the template."


@dataclass(frozen=True)
class Answer:
    """What was said about a region.

    Attributes:
        kind: "classes": classes, with or without "Something else"; "nothing": only "Something
            else"; "unsure": "Can't tell"; "empty": nothing at all.
        other: whether "Something else" is ticked; always so for kind "nothing".

    Raises: LabelConfigError unless `classes` holds distinct names exactly for kind "classes", or
    where `other` is set for "unsure" or "empty".
    """

    kind: Kind
    classes: tuple[str, ...] = ()
    other: bool = False

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
        if self.kind == "nothing":
            object.__setattr__(self, "other", True)
        elif self.other and self.kind != "classes":
            raise LabelConfigError(
                f"An answer of kind {self.kind!r} came with {OTHER_TEXT!r}.",
                hint="It goes with classes, or alone as kind 'nothing'.",
            )

    @property
    def clicks(self) -> int:
        """Ticks it took: one per class and for "Something else", 1 for "unsure", 0 for "empty"."""
        return len(self.classes) + self.other + (self.kind == "unsure")


def read_answer(
    result: Sequence[Mapping[str, Any]], schema: ClassSchema, template: str = "region_multiclass"
) -> Answer:
    """Answer in an annotation's or prediction's `result`; the inverse of `answer_result`.

    "Something else" combines with classes. What excludes others does so only here, not on the
    screen: "Can't tell" wins over everything, and "Nothing listed" of older setups over classes.
    Results of other kinds of control (a comment) do not count.

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
    answer: Answer,
    schema: ClassSchema,
    template: str = "region_multiclass",
    *,
    undefined_alias: str = OTHER_ALIAS,
) -> list[dict[str, Any]]:
    """Label Studio's `result` for an answer; [] when it is empty.

    Args:
        undefined_alias: `ParsedConfig.undefined_alias` of the project's setup.

    Raises: LabelConfigError for what the schema, the template or the setup does not offer.
    """
    plan = _region_layout(template)
    aliases = _aliases(answer, schema, plan, undefined_alias)
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
    extras = {UNSURE_ALIAS, *UNDEFINED_ALIASES} if schema.undefined else {UNSURE_ALIAS}
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
    other = OTHER_ALIAS in ticked
    classes = tuple(known[alias] for alias in dict.fromkeys(ticked) if alias in known)
    if not classes:
        return Answer("nothing" if other else "empty")
    answer = Answer("classes", classes, other)
    _check_count(answer, plan)
    return answer


def _aliases(
    answer: Answer, schema: ClassSchema, plan: Layout, undefined_alias: str = OTHER_ALIAS
) -> list[str]:
    _check_count(answer, plan)
    if answer.kind == "unsure":
        return [UNSURE_ALIAS]
    aliases = [str(schema.index(name)) for name in answer.classes]
    if not answer.other:
        return aliases
    if not schema.undefined:
        raise LabelConfigError(
            f"These classes offer no answer {OTHER_TEXT!r}.",
            hint="Make the schema with undefined=True.",
        )
    if aliases and undefined_alias == NOTHING_ALIAS:
        raise LabelConfigError(
            f"This older labelling setup has no {OTHER_TEXT!r} beside classes.",
            hint="Give the classes alone; 'Nothing listed' would hide them.",
        )
    return [*aliases, undefined_alias]


def _check_count(answer: Answer, plan: Layout) -> None:
    ticks = [*answer.classes, *([OTHER_TEXT] if answer.other else [])]
    if plan.choice == "single-radio" and len(ticks) > 1:
        raise LabelConfigError(
            f"Expected one class, got {shorten(ticks)}.",
            hint="region_dominant takes the class that covers most of the region.",
        )

"""Results of simulated experiments: what `pixbal simulate` writes and its report reads.

mIoU and IoU are shares (0..1), over the real classes; `seconds` are estimated annotator seconds.
A class that the test split does not hold has IoU None.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self, TypeVar

from training.errors import TrainingError
from training.files import write_json
from training.result_checks import check_count, check_number, check_share, check_text

T = TypeVar("T")
SIZES = ("cpu", "full")
_AGAIN = "Run `pixbal simulate` again: what is cached is not computed twice."


class ResultsError(TrainingError):
    """Results of an experiment are missing, damaged or contradict themselves."""


@dataclass(frozen=True)
class Round:
    """One point of a curve: the whole cost so far, and the model trained on it."""

    round: int
    clicks: int
    questions: int
    seconds: float
    miou: float
    per_class: Mapping[str, float | None]
    stage1_miou: float | None = None
    pseudo_accuracy: float | None = None  # right among the pixels that have a pseudo label
    pseudo_coverage: float | None = None  # pixels that have one among those of images asked about

    def __post_init__(self) -> None:
        """Raises: ResultsError for a number of the wrong type, not finite or out of range."""
        for name in ("round", "clicks", "questions"):
            _check(check_count, name, getattr(self, name))
        _check(check_number, "seconds", self.seconds)
        _check(check_share, "miou", self.miou)
        for name in ("stage1_miou", "pseudo_accuracy", "pseudo_coverage"):
            if getattr(self, name) is not None:
                _check(check_share, name, getattr(self, name))
        _check_per_class(self.per_class)

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Read `to_json` output. Raises ResultsError."""
        return _record(cls, raw)


@dataclass(frozen=True)
class GalleryItem:
    """A picture of a round; `image` is a path relative to the results file."""

    round: int
    image: str
    caption: str

    def __post_init__(self) -> None:
        """Raises: ResultsError for a path that is absolute or leads out of the folder."""
        _check(check_count, "round", self.round)
        _check(check_text, "image", self.image)
        if not isinstance(self.caption, str):
            raise ResultsError(f"caption must be text, got {self.caption!r}.")
        path = PurePosixPath(self.image)
        if path.is_absolute() or ".." in path.parts or "\\" in self.image or ":" in self.image:
            raise ResultsError(
                f"The gallery names {self.image!r}, which is not below the results.",
                hint="Give a path relative to the results file, with forward slashes.",
            )

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Read `to_json` output. Raises ResultsError."""
        return _record(cls, raw)


@dataclass(frozen=True)
class Run:
    """One method with one seed; a failed run keeps the rounds that it finished, and its error."""

    method: str
    seed: int
    status: Literal["done", "failed"]
    rounds: tuple[Round, ...]
    error: str | None = None
    gallery: tuple[GalleryItem, ...] = ()

    def __post_init__(self) -> None:
        """Raises: ResultsError for rounds out of order, falling costs or a status without cause."""
        _check(check_text, "method", self.method)
        _check(check_count, "seed", self.seed)
        if self.status not in ("done", "failed"):
            raise ResultsError(f"status must be 'done' or 'failed', got {self.status!r}.")
        if self.status == "failed" and not self.error:
            raise ResultsError(f"{self.method}, seed {self.seed} failed without an error.")
        if self.status == "done" and (not self.rounds or self.error):
            raise ResultsError(
                f"{self.method}, seed {self.seed} is done with {len(self.rounds)} rounds and "
                f"error {self.error!r}.",
                hint="A run that is done has at least one round and no error.",
            )
        for before, after in zip(self.rounds, self.rounds[1:], strict=False):
            for name in ("clicks", "questions", "seconds"):
                if getattr(after, name) < getattr(before, name) or after.round <= before.round:
                    raise ResultsError(
                        f"{self.method}, seed {self.seed}: round {after.round} with {name} "
                        f"{getattr(after, name)} follows round {before.round} with "
                        f"{getattr(before, name)}.",
                        hint="Rounds come in order; costs are those of all rounds so far.",
                    )

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Read `to_json` output. Raises ResultsError."""
        return _record(
            cls, raw, rounds=_listed(Round.from_json), gallery=_listed(GalleryItem.from_json)
        )


@dataclass(frozen=True)
class FullSupervision:
    """The same network and schedule trained on all masks: mIoU of each seed, mean IoU by class."""

    miou: tuple[float, ...]
    per_class: Mapping[str, float | None]

    def __post_init__(self) -> None:
        """Raises: ResultsError for no seed or a mIoU outside 0..1, 0 excluded."""
        for value in self.miou:
            _check(check_share, "miou", value)
        if not self.miou or not min(self.miou) > 0:
            raise ResultsError(
                f"Full supervision has mIoU {list(self.miou)}.",
                hint="Give one mIoU over 0 per seed, or null where it was not trained.",
            )
        _check_per_class(self.per_class)

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Read `to_json` output. Raises ResultsError."""
        return _record(cls, raw, miou=_listed(lambda value: value))


@dataclass(frozen=True)
class Results:
    """One experiment on one data set: every method with every seed.

    pool_regions: regions of the whole pool; a budget share is clicks / pool_regions.
    """

    experiment: str
    dataset: str
    size: Literal["cpu", "full"]
    command: str
    commit: str
    machine: str
    pool_regions: int
    classes: tuple[str, ...]
    runs: tuple[Run, ...]
    full: FullSupervision | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        """Raises: ResultsError for empty texts, doubled runs or classes, or an unknown class."""
        for name in ("experiment", "dataset", "command", "commit", "machine"):
            _check(check_text, name, getattr(self, name))
        if self.size not in SIZES:
            raise ResultsError(f"size must be one of {', '.join(SIZES)}, got {self.size!r}.")
        _check(check_count, "pool_regions", self.pool_regions, 1)
        for name in (*self.classes, *self.notes):
            _check(check_text, "a class or note", name)
        _check_distinct("classes", self.classes)
        _check_distinct("runs", [(run.method, run.seed) for run in self.runs])
        measured = [r.per_class for run in self.runs for r in run.rounds]
        measured += [self.full.per_class] if self.full else []
        unknown = sorted({name for values in measured for name in values} - set(self.classes))
        if unknown or not self.classes:
            raise ResultsError(
                f"IoU is given for the classes {unknown}; known are {list(self.classes)}.",
                hint="The class list must fit the data set.",
            )

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods in order of their first run, failed ones included."""
        return tuple(dict.fromkeys(run.method for run in self.runs))

    def runs_of(self, method: str) -> tuple[Run, ...]:
        """The runs of a method that are done, in order of their seeds; empty if none is."""
        done = [run for run in self.runs if run.method == method and run.status == "done"]
        return tuple(sorted(done, key=lambda run: run.seed))

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` is the inverse."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return values

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Read `to_json` output. Raises ResultsError naming the place of the first fault."""
        return _record(
            cls, raw,
            runs=_listed(Run.from_json),
            full=lambda value: None if value is None else FullSupervision.from_json(value),
            classes=_listed(lambda value: value),
            notes=_listed(lambda value: value),
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write JSON atomically; missing folders are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote. Raises ResultsError naming the file and the fault."""
        try:
            raw = json.loads(path.read_bytes().decode("utf-8"))
        except FileNotFoundError as error:
            raise ResultsError(f"There are no results at {path}.", hint=_AGAIN) from error
        except (OSError, ValueError, RecursionError) as error:
            raise ResultsError(f"{path} cannot be read as JSON: {error}.", hint=_AGAIN) from error
        try:
            return cls.from_json(raw)
        except ResultsError as error:
            raise ResultsError(f"{path}: {error.message}", hint=error.hint or _AGAIN) from error


def _check(check: Callable[..., None], *arguments: Any) -> None:
    try:
        check(*arguments)
    except ValueError as error:
        raise ResultsError(str(error)) from error


def _check_per_class(values: Mapping[str, float | None]) -> None:
    if not isinstance(values, Mapping):
        raise ResultsError(f"per_class must map class names to IoU or null, got {values!r}.")
    for name, value in values.items():
        if value is not None:
            _check(check_share, f"per_class {name!r}", value)


def _check_distinct(what: str, values: Any) -> None:
    twice = [value for value in dict.fromkeys(values) if list(values).count(value) > 1]
    if twice:
        raise ResultsError(f"{what} hold {twice} more than once.", hint="Each stands once.")


def _listed(read: Callable[[Any], T]) -> Callable[[Any], tuple[T, ...]]:
    """Reader of a JSON list; a fault names the position."""

    def read_all(raw: Any) -> tuple[T, ...]:
        if not isinstance(raw, list):
            raise ResultsError(f"expected a list, got {type(raw).__name__}.")
        found = []
        for index, value in enumerate(raw):
            try:
                found.append(read(value))
            except ResultsError as error:
                raise ResultsError(f"[{index}] {error.message}", hint=error.hint) from error
        return tuple(found)

    return read_all


def _record(cls: type[T], raw: Any, **readers: Callable[[Any], Any]) -> T:
    """Build a dataclass from a JSON object: exactly its fields, those with a default optional."""
    if not isinstance(raw, dict):
        raise ResultsError(f"expected an object ({cls.__name__}), got {type(raw).__name__}.")
    known = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]
    needed = {name for name, item in known.items() if item.default is MISSING}
    missing, unknown = sorted(needed - raw.keys()), sorted(raw.keys() - known.keys())
    if missing or unknown:
        raise ResultsError(
            f"{cls.__name__} lacks {missing} and holds the unknown {unknown}.",
            hint=f"Its fields: {', '.join(known)}.",
        )
    values = {}
    for name, value in raw.items():
        try:
            values[name] = readers[name](value) if name in readers else value
        except ResultsError as error:
            place = name if error.message.startswith("[") else f"{name}: "
            raise ResultsError(f"{place}{error.message}", hint=error.hint) from error
    return cls(**values)

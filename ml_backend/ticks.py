"""Whether a project's questions carry ticks in advance now, as its answers say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ml_backend.agreement import TickDecision, decide, measured
from ml_backend.store import Label, Project, Query, Store, VersionRow


def tick_decision(store: Store, project: Project) -> TickDecision:
    """Decide by the answered control questions; see `agreement.decide`."""
    answered = store.queries(project.id, status="answered")
    labels = store.effective_labels(project.id)
    return decision_of(project, answered, labels, store.versions(project.id))


def decision_of(
    project: Project,
    queries: Iterable[Query],
    labels: Mapping[int, Label],
    versions: Iterable[VersionRow],
) -> TickDecision:
    """The same of rows that were read already."""
    names = [version.name for version in versions]
    return decide(project.preticks, measured(project, queries, labels), names)

"""What the doctor looks at in one Label Studio project."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from label_config import ClassSchema, LabelConfigError, read
from label_config.mask_control import read_mask_control
from ml_backend.checks import Check
from ml_backend.connect import TITLE, UNCERTAINTY_SAMPLING
from ml_backend.errors import BackendError, NotReady
from ml_backend.fetch import resolve
from ml_backend.label_studio import WEBHOOK_ACTIONS, LabelStudio, Refused
from ml_backend.label_studio_errors import RESERVED_ADDRESS, RESERVED_ADDRESS_HINT
from ml_backend.mask_predictions import serving_version
from ml_backend.media import picture_urls
from ml_backend.proxies import proxy_hint_for_label_studio
from ml_backend.security import SECRET_HEADER
from ml_backend.settings import Settings
from ml_backend.store import Project, Store

RECONNECT = "Run `pixbal init` again with the same options; it repairs the connections."


def examine_project(
    settings: Settings, store: Store, ls: LabelStudio, project: Project
) -> list[Check]:
    """The project's connections, each a check named after the project."""
    label = f"project {project.id}"
    try:
        found = ls.project(project.id)
    except BackendError as error:
        hint = error.hint
        if isinstance(error, Refused) and error.code == 404:
            hint += f" If it is gone: `pixbal project forget --project {project.id}`."
        return [Check(label, False, error.message, hint)]
    state = "" if project.state == "active" else f", {project.state}"
    checks = [
        Check(label, True, f"{found.get('title')!r}, {found.get('task_number', 0)} tasks{state}"),
        _named(f"{label}: label config", lambda: label_config(project, found)),
        _named(f"{label}: webhook", lambda: webhook(settings, ls.webhooks(project.id))),
        _named(f"{label}: ML backend", lambda: ml_backend(settings, ls.ml_backends(project.id))),
        _named(f"{label}: order of the queue", lambda: order(project, found)),
    ]
    if project.template == "image_masks":
        checks.append(_named(f"{label}: masks", lambda: mask_version(store, project)))
    queries = store.queries(project.id, status="open")
    if queries:
        urls = picture_urls(settings, queries[0])
        checks.append(_named(f"{label}: pictures", lambda: picture(settings, ls, urls[0])))
    return checks


def _named(name: str, look: Callable[[], tuple[bool | None, str, str]]) -> Check:
    try:
        return Check(name, *look())
    except BackendError as error:
        return Check(name, False, error.message, error.hint)


def label_config(project: Project, found: dict[str, Any]) -> tuple[bool | None, str, str]:
    """The labelling screen, compared with the one answers are read by."""
    current = str(found.get("label_config") or "")
    if project.template == "image_masks":
        return mask_control(project, current)
    if current == project.label_config:
        return True, "unchanged", ""
    try:
        there, here = read(current), read(project.label_config)
    except LabelConfigError as error:
        return False, f"no longer ours: {error}", RECONNECT
    if (there.template, there.schema.names) == (here.template, here.schema.names):
        return None, "edited by hand; classes and names are the same", "Fine if it was meant."
    return False, "the classes differ from the ones answers are read by", RECONNECT


def mask_control(project: Project, current: str) -> tuple[bool | None, str, str]:
    """The place for masks in the labelling screen of an image project."""
    try:
        control = read_mask_control(current, ClassSchema.from_json(project.schema_json))
    except LabelConfigError as error:
        return False, error.message, error.hint
    detail = f"masks go to the {control.kind} labels {control.from_name!r}"
    if control.missing:
        advice = "Add labels of these names where their masks are wanted."
        return None, f"{detail}; no label for {', '.join(control.missing)}", advice
    return True, detail, ""


def mask_version(store: Store, project: Project) -> tuple[bool | None, str, str]:
    """The version that draws the masks of an image project."""
    try:
        version = serving_version(store, project)
    except NotReady as error:
        return None, error.message, error.hint
    return True, f"drawn by {version.name} of project {version.project_id}", ""


def webhook(settings: Settings, hooks: list[dict[str, Any]]) -> tuple[bool | None, str, str]:
    """Our webhook: one, active, with the secret and every action."""
    url = f"{settings.backend_url.rstrip('/')}/webhook"
    ours = [hook for hook in hooks if hook["url"] == url]
    if not ours:
        return False, f"none to {url}", _missing_advice(settings)
    faults = [] if len(ours) == 1 else [f"{len(ours)} to the same address, so events come twice"]
    hook = ours[0]
    given = next(
        (str(v) for k, v in (hook["headers"] or {}).items() if k.lower() == SECRET_HEADER.lower()),
        "",
    )
    if not given:
        faults.append(f"it has no header {SECRET_HEADER}")
    elif not hmac.compare_digest(given.encode(), settings.webhook_secret.encode()):
        faults.append("its secret is not PIXBAL_WEBHOOK_SECRET")
    missing = set(WEBHOOK_ACTIONS) - set(hook["actions"] or ())
    if missing and not hook["send_for_all_actions"]:
        faults.append(f"it does not send {', '.join(sorted(missing))}")
    faults += [] if hook["is_active"] else ["it is switched off"]
    faults += [] if hook["send_payload"] else ["it sends no payload"]
    return not faults, "; ".join(faults) or f"to {url}", RECONNECT


def ml_backend(settings: Settings, rows: list[dict[str, Any]]) -> tuple[bool | None, str, str]:
    """Our ML backend: one, connected, with basic authentication."""
    url = settings.backend_url.rstrip("/")
    ours = [row for row in rows if row["url"].rstrip("/") == url]
    if not ours:
        return False, f"none at {url}", _missing_advice(settings)
    row = ours[0]
    faults = [] if len(rows) == 1 else [f"{len(rows)} backends, so training starts twice"]
    if row["auth_method"] != "BASIC_AUTH" or row["basic_auth_user"] != settings.basic_user:
        faults.append("it does not sign in with PIXBAL_BASIC_USER")
    if row["state"] != "CO":
        reason = str(row.get("error_message") or "no reason given")
        faults.append(f"{row.get('readable_state') or row['state']}: {reason}")
        if RESERVED_ADDRESS in reason:
            return False, "; ".join(faults), RESERVED_ADDRESS_HINT
        return False, "; ".join(faults), f"{RECONNECT} {proxy_hint_for_label_studio(url)}".rstrip()
    return not faults, "; ".join(faults) or f"connected at {url}", RECONNECT


def _missing_advice(settings: Settings) -> str:
    """Reconnect: where Label Studio refuses the address, its refusal says so, and what to set."""
    parts = urlsplit(settings.backend_url)
    try:
        resolve(parts.hostname or "", parts.port or 80)
    except BackendError:
        return f"{RECONNECT} The name in PIXBAL_BACKEND_URL is not known on this machine."
    return RECONNECT


def order(project: Project, found: dict[str, Any]) -> tuple[bool | None, str, str]:
    """Sampling and model version: both must fit, else tasks come at random."""
    sampling, current = found.get("sampling"), found.get("model_version") or ""
    if project.template == "image_masks":
        if current == TITLE:
            return True, "as Label Studio has it; each task asks for its masks", ""
        advice = f"Run `pixbal masks --project {project.id}`, or choose {TITLE} in its settings."
        return False, f"shows the predictions of {current or 'nobody'}, not ours", advice
    if sampling != UNCERTAINTY_SAMPLING:
        return False, f"sampling is {sampling!r}, so scores are ignored", RECONNECT
    if current == TITLE:
        return False, f"model version is the title {TITLE!r}, so tasks come at random", RECONNECT
    wanted = project.model_version or ""
    if current == wanted:
        return True, f"by the scores of {current}" if current else "no questions yet", ""
    if not wanted:
        return None, f"by the scores of {current}; nothing was pushed from here yet", ""
    return False, f"by the scores of {current or 'nothing'}, the newest are {wanted}", RECONNECT


def picture(settings: Settings, ls: LabelStudio, url: str) -> tuple[bool | None, str, str]:
    """A picture of an open question, as the annotator's browser gets it: an image, with CORS."""
    import httpx

    if url.startswith("/"):
        return True, f"{len(ls.fetch(url))} bytes from Label Studio", ""
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(settings.label_studio_public_url))
    try:
        answer = httpx.get(url, headers={"Origin": origin}, timeout=10.0, trust_env=False)
    except httpx.HTTPError as error:
        advice = "Open a task in the browser; PIXBAL_PUBLIC_URL must be right there, not here."
        return None, f"{settings.public_url} does not answer from here: {error}", advice
    kind = answer.headers.get("content-type", "")
    if answer.status_code != 200 or not kind.startswith("image/"):
        advice = "Look at the backend's log; the images may be missing from PIXBAL_HOME."
        return False, f"answered {answer.status_code} {kind}", advice
    if answer.headers.get("access-control-allow-origin") not in ("*", origin):
        advice = "A proxy before the backend must pass Access-Control-Allow-Origin on."
        return False, "no Access-Control-Allow-Origin, so browsers refuse it", advice
    return True, f"{len(answer.content)} bytes, readable from {origin}", ""

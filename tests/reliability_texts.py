"""The promises in words, and the figures that are published with them."""

from __future__ import annotations

from collections.abc import Mapping

GUARANTEES: Mapping[int, str] = {
    1: "A webhook is acknowledged before any work is done for it",
    2: "An acknowledged event survives the death of the process that took it",
    3: "The same event, delivered any number of times, counts once",
    4: "Events in any order end in what Label Studio holds",
    5: "Labels whose webhooks were lost are found by reconciliation",
    6: "A round killed anywhere is recorded once, and no task is pushed twice",
    7: "Any number of events during a training lead to at most one more round",
    8: "A frozen worker is noticed; what it writes late is refused",
    9: "A round that always fails ends after a bounded number of tries, with the reason",
    10: "A version folder is whole or absent, never partial",
    11: "Out of memory, NaN loss, a broken image, a full disk: failed with a reason, the last "
    "version keeps serving; with room again a round ends by itself",
    12: "A push into a failing Label Studio goes on where it stopped, without duplicates",
    13: "Two workers make one trainer; all web processes answer with the same version",
    14: "No webhook without the secret; no listening beyond this machine without secrets",
    15: "Hostile bodies get a 4xx; memory stays bounded",
    16: "Images are fetched from allowed addresses only; the token goes to Label Studio only",
    17: "No path leads out of its folder",
    18: "Image bombs and broken images are refused before they are decoded",
    19: "Nothing is unpickled; a hostile weight file runs no code",
    20: "Hostile labelling setups and class names are refused or escaped",
    21: "Names from outside are escaped on the dashboard, under a strict content policy",
    22: "Secrets stay out of logs, job records, addresses and process arguments",
    23: "Containers run without root, read-only, with one port, checked; the webhook arrives",
    24: "The same labels and seed choose the same regions; a round can be replayed",
    25: "Memory stays flat over ten thousand requests and five rounds",
    26: "Dependencies but PyTorch are installed by hash (no audit: its services were out of reach)",
    27: "A jump of the clock neither repeats nor stops reconciliation",
    28: "No order of buttons undoes a round",
    29: "One project's trouble is its own",
    30: "An answer is never deleted unread",
    31: "Settings that the documents prescribe can be set",
}
# Every figure is in the record, measured or not.
FIGURES: Mapping[str, str] = {
    "kill_points": "Points at which processes were killed and all was well after the restart",
    "events": "Annotations made, changed and deleted in random schedules, and fuzzed events",
    "button_steps": "Steps of the machine that presses every button in any order",
    "fuzzed_requests": "Generated requests, none answered with a 5xx",
    "webhook_ms": "Webhook acknowledgement under load, ms, median of three runs",
    "health_ms": "/health under load, ms, median of three runs",
    "predict_ms": "Cached /predict under load, ms, median of three runs",
    "rss_growth": "Growth of memory over 10,000 events and 5 rounds, share",
}

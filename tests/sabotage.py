"""Every promise broken on purpose: a change of the source, and the tests that must then fail.

`make sabotage` applies each to a copy of the project, runs its tests there, and writes
docs/sabotage.json and docs/sabotage.md with how they failed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sabotage:
    """One text of one file replaced by another; each of the tests must fail.

    Attributes:
        promise: number of the promise that is broken (docs/reliability.md).
        what: the fault, in words.
        tests: node ids below tests/; where a test has parameters, with or without them.
    """

    promise: int
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


LATE = """from threading import Timer
    Timer(2.0, services().store.record_event, (number, action, payload)).start()
    return jsonify(ok=True), 201
    event, is_new = services().store.record_event(number, action, payload)"""

SABOTAGES: tuple[Sabotage, ...] = (
    Sabotage(
        1, "events are applied before they are acknowledged", "ml_backend/protocol.py",
        "    return jsonify(ok=True, stored=True, new=is_new, event=event.id)",
        "    from ml_backend.round_steps import apply_pending_events\n"
        "    apply_pending_events(services().store)\n"
        "    return jsonify(ok=True, stored=True, new=is_new, event=event.id)",
        ("test_protocol.py::test_webhook_stores_the_event_and_does_nothing_else",),
    ),
    Sabotage(
        2, "events are acknowledged first and stored two seconds later", "ml_backend/protocol.py",
        "    event, is_new = services().store.record_event(number, action, payload)",
        "    " + LATE,
        ("test_durable.py::test_an_acknowledged_event_is_there_after_a_kill",),
    ),
    Sabotage(
        3, "every delivery counts as a new event", "ml_backend/events.py",
        "    if action in NEVER_EQUAL:", "    if action:",
        (
            "test_protocol.py::test_duplicates_are_stored_once",
            "test_ingest.py::test_digest_ignores_order_of_fields_and_project_counts",
        ),
    ),
    Sabotage(
        4, "the last word heard wins, whatever its time", "ml_backend/store/labels.py",
        "allowed = and_(table.c.deleted.is_(False), new.updated_at > table.c.updated_at)",
        "allowed = table.c.deleted.is_(False)",
        ("test_fault_ingest.py::test_updated_before_created_and_deleted_before_created",
         "test_ingest.py::test_every_order_ends_in_the_same_state"),
    ),
    Sabotage(
        5, "a walk over Label Studio notes no answer that is missing here",
        "ml_backend/reconcile.py",
        "    if label is None or label.deleted or (asked and label.query_id is None):\n"
        "        return True",
        "    if label is None or label.deleted or (asked and label.query_id is None):\n"
        "        return False",
        (
            "test_fault_events.py::test_random_schedules_end_in_label_studios_export[0]",
            "test_fault_events.py::test_no_webhook_at_all",
            "test_fault_ingest.py::test_one_walk_heals_what_was_lost_or_false",
            "test_reconcile.py::test_live_labels_follow_label_studio",
        ),
    ),
    Sabotage(
        6, "after a restart every uncertain question is pushed again", "ml_backend/push.py",
        "    adopted = {group.query_id: group.kept for group in found}", "    adopted = {}",
        ("test_kill_matrix.py::test_killed_anywhere[worker]",),
    ),
    Sabotage(
        6, "nobody looks after rounds that stand still", "ml_backend/rescue.py",
        "        if now - self._looked_at < 2 * self.keeper.beat_s:\n            return",
        "        return",
        ("test_rescue.py::test_a_round_that_two_records_tell_differently_goes_on[ended_unsaid]",
         "test_rescue.py::test_a_thread_that_died_in_a_round_is_followed_by_another"),
    ),
    Sabotage(
        6, "a round is called cut off by a row that was read too early", "ml_backend/rescue.py",
        "if not held or self.store.round(row.project_id, row.number) != row:", "if not held:",
        ("test_rescue.py::test_a_round_that_ended_meanwhile_is_left_alone",),
    ),
    Sabotage(
        7, "a round may start while another one runs", "ml_backend/state.py",
        "    if state.running:\n", "    if False:\n",
        ("test_fault_ingest.py::test_five_hundred_events_while_a_round_runs_make_one_more",),
    ),
    Sabotage(
        8, "nobody looks whether the lease is still ours before writing",
        "ml_backend/store/fence.py",
        "        if row is None or row.token != lease.token:", "        if row is None:",
        (
            "test_leases.py::test_a_late_write_leaves_no_trace",
            "test_frozen_worker.py::test_a_lost_worker_is_replaced_and_refused"
            "[sqlite-mute-mid-epoch of stage 2]",
        ),
    ),
    Sabotage(
        8, "the work of an older owner is found under the same name", "ml_backend/round_steps.py",
        'work = version.with_name(f"{version.name}.{token}{PARTIAL}")',
        'work = version.with_name(f"{version.name}.1{PARTIAL}")',
        ("test_leases.py::test_the_work_of_a_stale_worker_leads_nowhere",),
    ),
    Sabotage(
        8, "a push holds a lock that a frozen process never gives back", "ml_backend/push.py",
        "    adopt_uncertain(store, ls, project.id)",
        "    from ml_backend.locks import file_lock\n"
        "    lock = file_lock(settings.home / 'push.lock', what='push')\n"
        "    lock.__enter__()\n"
        "    adopt_uncertain(store, ls, project.id)",
        ("test_frozen_worker.py::test_a_lost_worker_is_replaced_and_refused"
         "[sqlite-frozen-model_version patched]",),
    ),
    Sabotage(
        9, "a failure is never tried again", "ml_backend/failures.py",
        "        if attempts >= TRIES or (settled and not isinstance(error, OutOfMemory)):",
        "        if attempts:",
        (
            "test_failures.py::test_pauses",
            "test_failures.py::test_a_round_that_always_fails_ends_and_lets_others_pass",
        ),
    ),
    Sabotage(
        9, "a failure is tried again without end", "ml_backend/failures.py",
        "        if attempts >= TRIES or (settled and not isinstance(error, OutOfMemory)):",
        "        if settled and not isinstance(error, OutOfMemory):",
        ("test_failures.py::test_pauses",),
    ),
    Sabotage(
        10, "the record of a checkpoint is written before its weights",
        "training/checkpoints.py",
        "        digest = write_tensors(path, tensors)\n",
        "        data = save({n: t.detach().contiguous() for n, t in tensors.items()})\n"
        "        early = {\"epoch\": epoch, \"sha256\": hashlib.sha256(data).hexdigest()}\n"
        "        write_json(path.with_suffix(\".json\"), early)\n"
        "        digest = write_tensors(path, tensors)\n",
        ("test_atomic.py::test_a_killed_writer_leaves_old_or_new",),
    ),
    Sabotage(
        11, "a loss that is not a number is trained on", "training/loop.py",
        "    if not math.isfinite(value):", "    if False:",
        ("test_failures.py::test_a_round_that_fails_has_a_reason_and_harms_nothing_else[nan_loss-1]",),
    ),
    Sabotage(
        11, "a version that failed is published all the same", "ml_backend/workflow.py",
        "        _finish(project_id, number, error)\n        return \"failed\"",
        "        store = _player().runtime.store\n"
        "        store.update_project(project_id, model_version=f\"p{project_id}-r{number}\")\n"
        "        _finish(project_id, number, error)\n        return \"failed\"",
        ("test_failures.py::test_a_round_that_fails_has_a_reason_and_harms_nothing_else",),
    ),
    Sabotage(
        11, "a round whose thread could write nothing is left standing", "ml_backend/rescue.py",
        "        if self.engine.runs_here(row):\n", "        if True:\n",
        ("test_disk_full.py::test_a_full_disk_stops_a_round_and_loses_nothing"
         "[snapshot written-on the full disk]",),
    ),
    Sabotage(
        11, "out of GPU memory, the stage ends at once", "training/memory.py",
        "            self.size = smaller(tried)",
        "            raise RuntimeError('The GPU is full.')",
        ("test_out_of_memory.py::test_a_stage_goes_on_with_half_a_batch",),
    ),
    Sabotage(
        12, "an import whose answer was lost is sent again", "ml_backend/label_studio_tasks.py",
        "            repeat=False,\n        )\n        ids =", "        )\n        ids =",
        ("test_fault_label_studio.py::test_a_lost_answer_to_the_import_is_adopted",),
    ),
    Sabotage(
        12, "what a worker pushed too late stays", "ml_backend/copies.py",
        "        return [t.id for t in self.tasks if t.id != self.kept and not t.answered]",
        "        return []",
        ("test_frozen_worker.py::test_a_lost_worker_is_replaced_and_refused"
         "[sqlite-mute-a page is marked and not yet sent]",),
    ),
    Sabotage(
        12, "of several tasks the oldest stays, whichever was answered", "ml_backend/copies.py",
        "(not t.answered, t.id != self.ledger, t.id)", "t.id",
        (
            "test_copies.py::test_an_answered_copy_takes_the_place",
            "test_copies.py::test_a_page_of_unknown_fate_adopts_the_answered_task",
        ),
    ),
    Sabotage(
        12, "copies are judged by what a walk saw long ago", "ml_backend/copies.py",
        "if now.get(c.query_id) == c.ledger", "if now",
        ("test_copies.py::test_what_changed_since_the_walk_waits_for_the_next",),
    ),
    Sabotage(
        13, "a lease is taken whoever holds it", "ml_backend/leases.py",
        "            if row.holder not in (None, self.holder) and silent_s < self.ttl_s:",
        "            if silent_s < 0:",
        ("test_leases.py::test_a_lease_goes_over_when_its_holder_is_silent",),
    ),
    Sabotage(
        14, "an unset secret equals an empty one", "ml_backend/security.py",
        "    if not expected or given is None:", "    if given is None:",
        ("test_security.py::test_unset_secrets_open_nothing",),
    ),
    Sabotage(
        14, "webhooks are taken from anybody", "ml_backend/security.py",
        "    if not has_basic_auth(request, settings):\n        raise Unauthorised(\n"
        "            \"The webhook's",
        "    if False:\n        raise Unauthorised(\n            \"The webhook's",
        ("test_security.py::test_webhook_without_the_right_secret_is_401_and_stores_nothing",),
    ),
    Sabotage(
        14, "the server listens anywhere without secrets", "ml_backend/app.py",
        "    services.settings.check_serving()\n", "",
        ("test_security.py::test_unset_secrets_are_not_served_to_the_world",),
    ),
    Sabotage(
        15, "a body may have any size", "ml_backend/bodies.py",
        "    if len(data) > max_bytes:\n        raise too_large\n",
        "    data += request.stream.read()\n",
        ("test_security_hostile.py::test_a_body_without_an_end_is_left_at_the_cap",),
    ),
    Sabotage(
        15, "a body may be nested to any depth", "ml_backend/bodies.py",
        "    _check_depth(value)\n    return value", "    return value",
        ("test_protocol.py::test_a_deep_body_is_400",),
    ),
    Sabotage(
        16, "private addresses count as public", "ml_backend/fetch.py",
        "    return ip.is_global and not ip.is_multicast", "    return True",
        ("test_fetch.py::test_public_addresses",),
    ),
    Sabotage(
        16, "the token goes to every address", "ml_backend/fetch.py",
        "            (url, dict(self.headers()) if self._gets_token(url) else {}, {})",
        "            (url, dict(self.headers()), {})",
        ("test_fetch.py::test_the_token_opens_files_of_label_studio_only",),
    ),
    Sabotage(
        17, "an address may climb out of its folder", "ml_backend/fetch.py",
        '    if "\\0" in text or ".." in re.split(r"[/\\\\?=&]", text):', "    if False:",
        ("test_fetch.py::test_other_schemes_and_ways_out_are_refused",),
    ),
    Sabotage(
        17, "links inside a version are followed", "ml_backend/dashboard/download.py",
        "if p.is_file() and not p.is_symlink()", "if p.is_file()",
        ("test_dashboard_pages.py::test_links_inside_a_version_lead_nowhere",),
    ),
    Sabotage(
        18, "pixels are decoded before they are counted", "training/images.py",
        "    if width * height > max_pixels:", "    if False:",
        ("test_images.py::test_header_over_the_cap",
         "test_images.py::test_cap_is_inclusive_and_can_be_raised"),
    ),
    Sabotage(
        19, "weights are unpickled", "training/versions.py",
        "    tensors = read_tensors(version.path / name, version.sha256[name])",
        "    tensors = torch.load(version.path / name)",
        ("test_security_sources.py::test_no_source_unpickles_evaluates_or_asks_a_shell",),
    ),
    Sabotage(
        20, "entities are given to the parser", "label_config/safe_xml.py",
        '    if re.search(r"<!\\s*(DOCTYPE|ENTITY)", xml, re.IGNORECASE):', "    if False:",
        ("test_builder.py::test_document_types_and_entities_are_refused_before_parsing",),
    ),
    Sabotage(
        21, "scripts may stand in the page", "ml_backend/dashboard/guard.py",
        "script-src 'self';", "script-src 'self' 'unsafe-inline';",
        ("test_dashboard_pages.py::test_strict_headers_on_every_answer",),
    ),
    Sabotage(
        22, "secrets are logged as they are", "ml_backend/logs.py",
        "            text = text.replace(secret, MASK)", "            pass",
        ("test_security.py::test_secrets_are_masked_wherever_they_turn_up",),
    ),
    Sabotage(
        22, "events are stored as they come", "ml_backend/payloads.py",
        "    return payload\n\n\ndef _annotation(",
        "    return dict(body)\n\n\ndef _annotation(",
        ("test_protocol.py::test_recorded_events_keep_no_secret",),
    ),
    Sabotage(
        23, "the containers may write anywhere", "docker-compose.yml",
        "  read_only: true\n", "",
        ("test_compose.py::test_containers_are_narrow",),
    ),
    Sabotage(
        24, "the network starts from random numbers", "training/model.py",
        "        torch.manual_seed(seed)", "        torch.seed()",
        ("test_replay.py::test_a_replayed_round_is_equal_byte_by_byte",),
    ),
    Sabotage(
        25, "every event leaves four megabytes in memory", "ml_backend/protocol.py",
        "    payload = stored_payload(action, number, body)",
        "    payload = stored_payload(action, number, body)\n"
        "    globals().setdefault('kept', []).append(bytes(range(256)) * 16384)",
        ("test_load.py::test_memory_stays_flat",),
    ),
    Sabotage(
        26, "a package is pinned to no version", "requirements/project.lock",
        "annotated-types==0.8.0 ", "annotated-types ",
        ("test_security_pins.py::test_lock_has_a_hash_for_everything_and_agrees",),
    ),
    Sabotage(
        27, "reconciliation goes by the wall clock", "ml_backend/worker.py",
        "            if self.clock() < self._reconcile_at.get(project.id, -math.inf):",
        "            wall = self.now().timestamp()\n"
        "            if wall < self._reconcile_at.get(project.id, -math.inf):",
        ("test_clock.py::test_a_jump_neither_repeats_nor_stops_reconciliation",),
    ),
    Sabotage(
        27, "leases go by the holder's wall clock", "ml_backend/leases.py",
        "        if last is None or (last.token, last.beat) != (row.token, row.beat):",
        "        from datetime import UTC, datetime\n"
        "        if (datetime.now(UTC) - row.renewed_at).total_seconds() > self.ttl_s:\n"
        "            return self.ttl_s\n"
        "        if last is None or (last.token, last.beat) != (row.token, row.beat):",
        ("test_leases.py::test_the_wall_clock_has_no_say",),
    ),
    Sabotage(
        28, "scoring for a push writes the state of the round", "ml_backend/round_steps.py",
        "    out = runtime.scores_path(project.id, name)\n    out.parent.mkdir",
        "    if row is not None:\n"
        "        runtime.store.update_round(project.id, row.round, state='scoring')\n"
        "    out = runtime.scores_path(project.id, name)\n    out.parent.mkdir",
        ("test_rounds_and_pushes.py::test_images_that_came_later_are_scored_before_they_are_asked",),
    ),
    Sabotage(
        28, "questions follow the last round, done or not", "ml_backend/round_steps.py",
        "    return project.current_version or NO_MODEL", "    return NO_MODEL",
        ("test_rounds_and_pushes.py::test_pushing_after_a_finished_round_leaves_it_done"
         "[1-push_more]",),
    ),
    Sabotage(
        28, "a push waits for the training", "ml_backend/state.py",
        "        return Step.PUSH if wanted and state.may_push else Step.WAIT",
        "        return Step.WAIT",
        ("test_rounds_and_pushes.py::test_questions_are_pushed_while_a_model_trains",),
    ),
    Sabotage(
        28, "questions are pushed while images are imported", "ml_backend/round_steps.py",
        "    return reasons.get(project.state)", "    return None",
        ("test_rounds_and_pushes.py::test_nothing_is_pushed_while_images_are_imported",),
    ),
    Sabotage(
        28, "a push writes the state of the last round", "ml_backend/round_steps.py",
        "    number = next_round(runtime.store.rounds(project.id))\n",
        "    number = next_round(runtime.store.rounds(project.id))\n"
        "    if number > 1:\n"
        "        runtime.store.update_round(project.id, number - 1, state='scoring')\n",
        ("test_buttons.py::test_any_order_of_buttons",),
    ),
    Sabotage(
        29, "the first project that cannot be walked ends the look", "ml_backend/worker.py",
        "                self._refused(self.walks, project, error)", "                raise",
        ("test_rounds_and_pushes.py::test_a_project_that_label_studio_refuses_stops_no_other"
         "[deleted there]", "test_buttons.py::test_any_order_of_buttons"),
    ),
    Sabotage(
        30, "a copy is deleted by what a walk saw", "ml_backend/copies.py",
        " if _still_unanswered(ls, t)]", "]",
        (
            "test_copies.py::test_a_copy_that_was_answered_since_the_walk_stays",
            "test_buttons.py::test_any_order_of_buttons",
        ),
    ),
    Sabotage(
        31, "a repeated init ignores other values without a word", "ml_backend/init.py",
        "        notes += kept_settings(known, request)\n", "",
        ("test_init_again.py::test_every_ignored_option_is_named_and_the_command_changes_them",
         "test_init_again.py::test_lower_the_learning_rate_as_the_operations_page_says"),
    ),
    Sabotage(
        31, "a changed setting is shown and not kept", "ml_backend/change_project.py",
        "        store.update_project(project.id, **changes)\n    return",
        "        pass\n    return",
        ("test_project_settings.py::test_every_setting_can_be_changed",),
    ),
)  # fmt: skip

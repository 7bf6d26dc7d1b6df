"""Faults of release 0.1.0 that people met: what went wrong, what shows it gone, how that failed."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One fault; `point` orders them, `tests` are names as pytest takes them, below tests/."""

    point: str
    what: str
    tests: tuple[str, ...]
    seen: str


ROUNDS = "test_rounds_and_pushes.py::"
FAULTS: tuple[Fault, ...] = (
    Fault(
        "A1",
        "Pushing after a finished round undid it, and could fall back to random questions",
        (
            ROUNDS + "test_pushing_after_a_finished_round_leaves_it_done",
            ROUNDS + "test_pushing_while_no_round_is_done_does_not_go_back_to_random",
        ),
        "the state of the round written when scoring; random scores unless the last round is done",
    ),
    Fault(
        "A1",
        "Clicks and labels of a round changed when it was tried again",
        (ROUNDS + "test_clicks_and_labels_of_a_round_never_change_afterwards",),
        "as it was: 4 clicks instead of 2",
    ),
    Fault(
        "A1",
        "Rounds that 0.1.0 undid",
        (
            ROUNDS + "test_a_round_that_release_0_1_0_undid_is_done_again",
            "test_migrations.py::test_a_round_that_the_first_release_undid_is_done_again",
        ),
        "without that case when a round is settled; without that line of the migration",
    ),
    Fault(
        "A2",
        "Every push scored the whole pool anew",
        (
            ROUNDS + "test_scores_of_a_version_are_made_once",
            ROUNDS + "test_images_that_came_later_are_scored_before_they_are_asked",
        ),
        "scores made by every push",
    ),
    Fault(
        "A2",
        "A request that did nothing claimed success; thirty requests were thirty pushes",
        (
            ROUNDS + "test_a_request_that_does_nothing_says_so",
            ROUNDS + "test_many_requests_are_one_push",
        ),
        "the request finished without what was said",
    ),
    Fault(
        "A2",
        "Nothing could be pushed while a model trained",
        (
            ROUNDS + "test_questions_are_pushed_while_a_model_trains",
            ROUNDS + "test_a_push_by_two_at_once_is_refused_or_waits",
        ),
        "one lease for both",
    ),
    Fault(
        "A3",
        "The worker pushed while `init` still imported; `--no-push` was pushed all the same; "
        "one image could take a whole batch",
        (
            "test_init_killed.py::test_a_killed_import_says_how_to_go_on_and_is_pushed_from_all_images",
            ROUNDS + "test_nothing_is_pushed_while_images_are_imported",
            ROUNDS + "test_no_push_means_nobody_pushes_until_asked",
            "test_queries.py::test_one_image_does_not_take_the_whole_batch",
        ),
        "the project active at once; the hold left out; no cap",
    ),
    Fault(
        "A4",
        "One project that Label Studio refused stopped every other",
        (
            ROUNDS + "test_a_project_that_label_studio_refuses_stops_no_other",
            ROUNDS + "test_an_unexpected_error_in_one_project_is_its_own",
        ),
        "the walks ended by the first that raises",
    ),
    Fault(
        "A5",
        "Regions that can never be asked were waited for; a failed round without an answer "
        "was a dead end",
        (
            ROUNDS + "test_a_pool_whose_last_regions_cannot_be_asked_is_done",
            ROUNDS + "test_a_failed_round_without_an_answer_left_gets_new_questions",
            "test_state.py::test_no_dead_end_after_a_failure",
        ),
        "every region counted as left; failed always waiting",
    ),
    Fault(
        "A6",
        "The work of a newer owner was renamed, an answered copy deleted, and one broken "
        "event blocked the rest",
        (
            "test_leases.py::test_the_work_of_whoever_took_the_lease_is_left_alone",
            "test_copies.py::test_a_copy_that_was_answered_since_the_walk_stays",
            ROUNDS + "test_one_broken_event_does_not_block_the_others",
        ),
        "every folder claimed; no second look; only our own errors caught",
    ),
    Fault(
        "A7",
        "Held-out masks were read for the first time after both trainings; a corrected one "
        "was ignored",
        (
            "test_heldout.py::test_masks_of_common_kinds_become_class_indices",
            "test_heldout.py::test_a_corrected_mask_is_taken",
            ROUNDS + "test_a_corrected_held_out_mask_is_taken_after_a_failure",
        ),
        "only the name compared; the snapshot of the first try used again",
    ),
    Fault(
        "A8",
        "A NaN reached checkpoints and versions",
        (
            "test_loop.py::test_nothing_that_is_no_number_reaches_a_checkpoint",
            "test_loop.py::test_a_checkpoint_of_an_earlier_release_that_holds_nan_is_passed_over",
            "test_loop.py::test_weights_with_nan_are_neither_written_nor_read",
        ),
        "run on the code of 0.1.0: saved, and trained on",
    ),
    Fault(
        "A8",
        "New settings after a failure were refused or ignored, and took effect in mid-round",
        (
            "test_round_changes.py::test_new_settings_restart_the_first_stage_they_touch",
            "test_round_changes.py::test_a_learning_rate_lowered_after_a_failure_is_used",
            ROUNDS + "test_settings_that_change_during_a_round_wait_for_the_next",
            ROUNDS + "test_new_settings_after_a_failure_count_when_training_is_asked_for",
        ),
        "run on the code of 0.1.0; settings read when the training begins",
    ),
    Fault(
        "B9",
        "A repeated `init` ignored its options, as the documents prescribed them; wrong ones "
        "were found after a download",
        (
            "test_init_again.py::test_lower_the_learning_rate_as_the_operations_page_says",
            "test_init_again.py::test_every_ignored_option_is_named_and_the_command_changes_them",
            "test_init_again.py::test_wrong_options_are_found_before_anything_is_made_or_downloaded",
            "test_init_killed.py::test_an_init_that_reads_no_image_leaves_no_project_behind",
            "test_project_settings.py::test_every_setting_can_be_changed",
        ),
        "run on the code before; what was kept not said; the images read afterwards",
    ),
    Fault(
        "B10",
        "A project could not be paused, put away or forgotten; `init` over a deleted one "
        "ended in 404",
        (
            "test_init_again.py::test_init_over_the_title_of_a_deleted_project_makes_a_new_one",
            "test_project_states.py::test_a_round_that_only_waits_does_not_begin_and_is_made_up_for",
            "test_forget.py::test_shared_files_stay_until_the_last_project_goes",
        ),
        "run on the code before; the check before a round taken out; every file deleted",
    ),
    Fault(
        "B11",
        "A worse version went into use without a word, and there was no way back",
        (
            "test_version_use.py::test_a_worse_version_is_used_and_warned_of_with_the_way_back",
            "test_version_use.py::test_a_question_has_one_prediction_of_a_version_that_comes_back",
            "test_version_use.py::test_unknown_and_damaged_versions_change_nothing",
        ),
        "the warning switched off; old predictions left there; the files not checked",
    ),
    Fault(
        "B12",
        "Ticks in advance cost keys",
        (
            "test_agreement.py::test_ticks_come_with_the_first_version_that_is_seen_to_save_keys",
            "test_agreement.py::test_auto_shows_ticks_where_they_are_seen_to_save_keys",
        ),
        "ticks shown from the first version on; one rule for beginning and end",
    ),
    Fault(
        "B13",
        "Images and classes could not be changed afterwards",
        (
            "test_project_images.py::test_every_command",
            "test_class_append.py::test_label_studio_takes_a_class_while_answers_exist",
            "test_class_append.py::test_void_of_old_masks_does_not_become_the_new_class",
        ),
        "answers of removed images trained on; a removed row replaced; void read as the class",
    ),
    Fault(
        "C14",
        '"Nothing listed" erased the other ticks',
        (
            "test_something_else.py::test_road_and_something_else_train_as_both",
            "test_labels.py::test_something_else_added_or_taken_away_is_a_change",
            "test_sayable.py::test_the_simulation_says_what_the_screen_offers",
            "test_sayable.py::test_the_demonstration_says_what_the_screen_offers",
        ),
        '"other" hiding the classes; left out of the comparison; the old clicks and oracle',
    ),
    Fault(
        "C15",
        "A region could be asked once only; a question saved unseen stayed as it was",
        (
            "test_ask_again.py::test_never_twice_while_one_asking_is_open",
            "test_ask_again.py::test_askings_are_never_copies_of_each_other",
            "test_correct_answer.py::test_the_last_answer_is_corrected",
        ),
        "waiting askings not looked at; the asking left out of the question's identity",
    ),
    Fault(
        "C16",
        "Annotators were told nothing; the 29th class had no key",
        (
            "test_instructions.py::test_the_field_is_set_once_renewed_and_left_to_who_changed_it",
            "test_browser.py::test_forty_classes_by_keyboard",
        ),
        "the check for own text removed; Tab led into a checkbox, where keys are dead",
    ),
    Fault(
        "C17",
        "Automatic colours repeated",
        (
            "test_colors.py::test_automatic_colours_are_distinct",
            "test_colors.py::test_filled_in_colours_keep_clear_of_given_ones",
        ),
        "measured on 0.1.0: closest pair 1.64 of 40; the distance set to 0",
    ),
    Fault(
        "D18",
        "Masks were drawn by other projects' models, and stayed those of an old version",
        (
            "test_mask_predictions.py::test_masks_are_drawn_by_the_named_project_only",
            "test_masks.py::test_the_region_project_is_named_once_and_kept",
            "test_masks.py::test_the_masks_of_a_new_version_are_shown_when_a_task_is_opened",
            "test_masks.py::test_masks_again_draws_a_changed_picture_and_another_region_project",
        ),
        "the newest fitting project taken; the kept name not looked at; the worker's look removed",
    ),
    Fault(
        "D19",
        '"Something else" was drawn as a listed class',
        (
            "test_predict.py::test_something_else_is_drawn_as_no_class",
            "test_export.py::test_something_else_is_255_in_exported_masks",
        ),
        "class 0, and 2, instead of 255",
    ),
    Fault(
        "E20",
        "Two models shared wrong features; weights went by position",
        (
            "test_features_cache.py::test_two_models_of_one_project_do_not_share_features",
            "test_versions.py::test_a_version_of_a_newer_release_is_not_called_damaged",
            "test_config.py::test_a_bad_acquisition_fails_when_the_config_is_made",
            "test_round_changes.py::test_a_finished_stage_asks_nobody_for_weights",
        ),
        'run on the code of 0.1.0: shared; "cannot be downloaded"',
    ),
    Fault(
        "E21",
        "Out of memory skipped 3 and 2 images, and only forward and backward fell back",
        (
            "test_out_of_memory.py::test_a_stage_goes_on_with_one_image_at_once",
            "test_out_of_memory.py::test_an_optimiser_step_that_does_not_fit",
            "test_out_of_memory_images.py::test_a_whole_round_on_a_full_gpu",
        ),
        "halving rounded down; the error passed on",
    ),
    Fault(
        "F22",
        "PIXBAL_HOME=~/x, proxies before our own address, one heartbeat for all workers, "
        "links into the compose network, a CPU image for the GPU, SEEDS lost without a word",
        (
            "test_settings.py::test_every_command_has_the_one_home",
            "test_proxies.py::test_nothing_for_this_machine_goes_through_a_proxy",
            "test_liveness.py::test_a_dead_worker_is_seen_beside_one_that_lives",
            "test_status.py::test_failed_events_of_one_project_leave_room_for_anothers",
            "test_settings.py::test_links_for_people_lead_to_the_public_address",
            "test_compose.py::test_the_gpu_profile_builds_a_gpu_image",
            "test_doctor.py::test_a_lost_seeds_is_said_with_the_command_that_mends_it",
        ),
        "each put back, or seen on 0.1.0",
    ),
    Fault(
        "F23",
        "Masks were taken for photos; lists, globs and names that were not plain",
        (
            "test_sources.py::test_masks_below_a_folder_are_no_photos",
            "test_sources.py::test_a_list_with_a_byte_order_mark_keeps_its_first_image",
            "test_fetch.py::test_raw_names_in_the_query_are_quoted",
        ),
        "the sorting out of masks undone; run on the code of 0.1.0",
    ),
    Fault(
        "F24",
        "Messages whose hints did not work",
        (
            "test_proxies.py::test_a_forgotten_token_is_called_missing",
            "test_status.py::test_status_can_be_read_at_80_columns",
            "test_page_access.py::test_no_label_of_a_chart_is_clipped",
            "test_time_left.py::test_later_stages_go_at_the_pace_of_this_one",
        ),
        "as they were, and in Chromium",
    ),
    Fault(
        "F25",
        "How to start a training from anywhere was nowhere said",
        ("test_webhook_command.py::test_the_line_of_the_readme_starts_a_training",),
        "another header, another action",
    ),
)

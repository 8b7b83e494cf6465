"""Slow tests, most of which repeat what a quicker one shows on another kind or size: they run with `-m slow`.

Each pattern of a test's id stands beside what holds the same fact, or most of it, in every run. What nothing else
holds is `ALONE`. A pattern that fits no test is an error (tests/conftest.py).
"""

from fnmatch import fnmatch

ALONE = "nothing: the slow run alone holds it"
REPEATS = {
    "tests/external/test_forgetting.py::test_a_thousand_deletions_*": "test_reads_equal_those_of_a_memory_...: 16 each",
    "tests/external/test_forgetting.py::test_reads_equal_those_of_*[[]episodic-numbers1]": "[episodic-numbers0]",
    "tests/agents/recall/test_recall_runs.py::test_one_seed_alone_remembers_as_side_by_side[[]chunked]": "[episodic]",
    "tests/agents/recall/test_recall_runs.py::test_a_run_with_an_external_memory_*[[]CartPole-v1-chunked]": (
        "[engram/CartPole-v1-chunked], [CartPole-v1-online]"
    ),
    "tests/agents/recall/test_recall_runs.py::test_a_run_with_an_external_memory_*[[]*-graph]": "-chunked",
    "tests/agents/recall/test_recall_runs.py::test_a_run_with_an_external_memory_resumes_exactly[[]*-recurrent]": (
        "tests/runners: the working memory resumes; -online: the external one"
    ),
    "tests/agents/recall/test_recall_runs.py::test_presets_with_a_memory_use_it[[]emdqn]": "[nec]",
    "tests/parts/test_mine.py::test_it_is_trained_evaluated_resumed_and_listed_from_the_command_line[[]*]": (
        "test_an_agent_of_nothing_but_parts_of_ones_own_...: all of them in one run"
    ),
    "tests/cli/test_new.py::test_what_is_written_keeps_its_contract_and_trains[[][!ed]*]": "[draw], [external]",
    "tests/cli/test_new.py::test_what_is_written_keeps_its_contract_and_trains[[]exploration]": "[draw], [external]",
    "tests/parts/test_own_parts.py::test_a_q_learner_keeps_the_contract_of_agents[[]masked-*]": "[box-*]",
    "tests/parts/test_own_parts.py::test_a_q_learner_keeps_the_contract_of_agents[[]box-attention-dqn]": "[box-dqn]",
    "tests/working/test_slots.py::test_bits_of_pictures_never_seen_*": "the other tests of slots, by hand",
    "tests/envs/test_intersection.py::test_the_environment_keeps_the_contract": "its dynamics, against the recording",
    "tests/envs/test_memory_envs.py::test_every_task_keeps_the_contract*arguments18]": "arguments17",
    "tests/run/test_resume.py::test_a_state_without_one_of_its_fields_is_refused_*numpy]": "[device], [compiled]",
    "tests/run/test_resume.py::test_a_state_without_one_of_its_fields_is_refused_*rollouts]": (
        "[device], [compiled]; runs of rollouts with stops are the runs without"
    ),
    "tests/run/test_resume.py::test_a_soft_actor_critic_with_stops_is_the_one_without[[]device]": "[host]",
    "tests/explain/test_recording.py::test_the_kept_state_before_a_step_*[[]engram/CartPole-v1-gru-episodic]": (
        "the other kinds; tests/explain/test_rereading.py"
    ),
    "tests/run/test_resume.py::test_a_device_run_with_stops_is_the_run_without[[]memory]": "[two environments, ...]",
    "tests/run/test_resume.py::test_a_device_run_with_stops_is_the_run_without[[]rainbow]": (
        "test_a_host_run_with_stops_..._[rainbow], test_a_state_without_one_of_its_fields_...[rainbow]"
    ),
    "tests/runners/test_runners.py::test_both_runners_make_the_same_number_of_updates[[]4-*]": "[8-*]",
    "tests/runners/test_runners.py::test_both_runners_make_the_same_number_of_updates[[]1-*": "[8-*]",
    "tests/runners/test_runners.py::test_a_step_that_an_environment_breaks_*[[]compiled-[13]]": (
        "[compiled-2], [numpy-*]"
    ),
    "tests/working/test_slots.py::test_all_sizes_keep_the_contract[[]numbers[12]]": "[numbers0]",
    "tests/run/test_planning.py::test_a_run_made_longer_in_one_process_*[[]engram/CartPole-v1]": "[CartPole-v1]",
    "tests/envs/test_host_faults.py::test_what_hangs_or_ends_before_the_workers_start*__init__]": "[*-reset]",
    "tests/run/test_resume.py::test_a_host_run_with_stops_is_the_run_without[[]numpy, replayed]": (
        "[numpy, replayed, four of them]"
    ),
    "tests/run/test_resume.py::test_a_host_run_with_stops_is_the_run_without[[]numpy, exact, two of them]": (
        "[numpy, exact], [numpy, replayed, four of them]"
    ),
    "tests/envs/test_steady.py::test_drifting_dtypes_learn_and_are_evaluated[[]32 bits-{'[sf]*": (
        "[32 bits-{}], [32 bits-{'pays': ...}], and [64 bits-*]"
    ),
    "tests/external/test_external.py::test_every_eviction_keeps_the_contract_with_offered_actions[[]least-*": (
        "[oldest], [merge]; without offered actions all"
    ),
    "tests/external/test_external.py::test_every_kind_that_takes_features_keeps_the_contract_with_*chunked]": (
        "[episodic]"
    ),
    "tests/working/test_working.py::test_a_bit_shown_once_can_be_learned_to_be_told_20_steps_later[[]history]": "[gru]",
    "tests/envs/test_steady.py::test_sixty_four_bits_change_nothing*dtqn]": "[engram/CartPole-v1-dqn]",
    # Long tests of rare faults and of whole pages. What they hold is shown in a smaller form by the tests beside them.
    "tests/run/test_resume.py::test_a_stopped_process_goes_on_in_another*": (
        "tests/cli/test_cli.py::test_a_terminated_run_saves_and_exits_with_75, and the runs with stops in one process"
    ),
    "tests/run/test_resume.py::test_a_state_without_one_of_its_fields_is_refused_*rainbow]": (
        "[device], [compiled], [memory]; test_a_host_run_with_stops_..._[rainbow]"
    ),
    "tests/run/test_resume.py::test_a_device_run_with_stops_is_the_run_without[[]one]": "[two environments, ...]",
    "tests/agents/test_matrix.py::test_it_finds_the_values_of_the_chain[[]rainbow-memory-none]": (
        "[qr-dqn-history], [per-dqn-gru]; tests/agents/test_agent.py: each of its parts on the same probe"
    ),
    "tests/envs/test_host_faults.py::test_an_environment_that_hangs_in_close_is_ended_all_the_same": (
        "test_a_worker_that_hangs_is_named_and_ended"
    ),
    "tests/envs/test_host_faults.py::test_sigterm_to_the_group_leaves_the_workers_*[[]envs.close()]": "[pass]",
    "tests/envs/test_host_faults.py::test_what_hangs_or_ends_before_the_workers_start*hang-*": "[exit-*], [*-__init__]",
    "tests/envs/test_host_masks.py::test_workers_tell_masks_of_every_convention": (
        "test_actions_on_offer_are_one_row_each, and every convention in one process"
    ),
    "tests/envs/test_host_envs.py::test_what_was_seen_outside_becomes_rows[[]fresh1]": "[fresh0]",
    "tests/envs/test_steady.py::test_sixty_four_bits_change_nothing[[]CartPole-v1-nec]": "[engram/CartPole-v1-dqn]",
    "tests/envs/test_intersection.py::test_episodes_end_as_often_in_each_way_as_in_highway_env*": (
        "its dynamics, against the recording"
    ),
    "tests/envs/test_intersection.py::test_every_corner_has_as_much_traffic_as_its_opposite": (
        "its dynamics, against the recording"
    ),
    "tests/envs/test_intersection.py::test_always_slower_never_arrives_and_is_hardly_ever_hit": (
        "its dynamics, against the recording"
    ),
    "tests/house/test_examples.py::test_the_python_of_a_page_runs[[]callbacks.md]": "tests/run/test_callbacks.py",
    "tests/house/test_examples.py::test_the_python_of_a_page_runs[[]compare.md]": "tests/comparison",
    "tests/house/test_examples.py::test_the_python_of_a_page_runs[[]loggers.md]": "tests/run/test_loggers.py",
    "tests/house/test_examples.py::test_the_python_of_a_page_runs[[]from-stable-baselines3.md]": (
        "[README.md], [tutorial.md]"
    ),
    "tests/house/test_examples.py::test_the_cells_of_a_notebook_run[[]memory.ipynb]": "[first_agent.ipynb]",
    "tests/run/test_article.py::test_after_a_task_without_an_end_the_environment_is_free": (
        "test_the_sketch_of_the_article_runs_and_goes_on"
    ),
    "tests/run/test_missing.py::test_off_a_missing_number_is_refused_from_a_worker_too": (
        "test_workers_meet_what_one_process_meets, and the refusal in one process"
    ),
    "tests/run/test_missing.py::test_they_are_said_of_workers_too_and_of_no_other_environment": (
        "test_workers_meet_what_one_process_meets"
    ),
    "tests/run/test_missing.py::test_a_host_run_resumes_exactly_evaluates_and_predicts[[]stacks of two]": "[one]",
    "tests/run/test_evaluating.py::test_training_is_the_same_with_and_without_evaluation[[]numpy]": "[compiled]",
    "tests/nn/test_noisy.py::test_a_noisy_head_keeps_its_contract_and_explores[[]dueling]": "[q], [implicit]",
    "tests/cli/test_new.py::test_what_is_written_keeps_its_contract_and_trains[[]encoder]": "[external]",
    "tests/run/test_trainer.py::test_every_setting_changes_the_program[[]* *]": (
        "of the default parts every setting, of the others each part as a whole; their settings in the slow run alone"
    ),
    "tests/house/test_examples.py::test_the_python_of_a_page_runs[[]tune.md]": "tests/tuning",
    "tests/run/test_resume.py::test_a_host_run_with_stops_is_the_run_without[[]rainbow]": (
        "[compiled, exact]; tests/run/test_demonstrations.py: a prioritized run with stops"
    ),
    "tests/run/test_demonstrations.py::test_agents_of_every_kind_learn_from_them[[]engram/CartPole-v1-a *]": (
        "[CartPole-v1-a working memory], [engram/CartPole-v1-an external memory]"
    ),
    "tests/run/test_demonstrations.py::test_agents_of_every_kind_learn_from_them[[]CartPole-v1-an external memory]": (
        "[engram/CartPole-v1-an external memory]"
    ),
    "tests/run/test_demonstrations.py::test_agents_of_every_kind_learn_from_them[[]CartPole-v1-a distribution]": (
        "[CartPole-v1-a working memory]"
    ),
    "tests/run/test_demonstrations.py::test_a_run_with_stops_is_the_run_without_*uniform]": "[*-prioritized]",
    "tests/run/test_demonstrations.py::test_a_run_with_stops_is_the_run_without_*[[]CartPole-v1-prioritized]": (
        "[engram/CartPole-v1-prioritized], [CartPole-v1-windows]"
    ),
    "tests/run/test_missing.py::test_the_functions_of_the_article_take_what_is_missing": (
        "test_the_sketch_of_the_article_runs_and_goes_on, and what is missing in a trainer"
    ),
    "tests/agents/recall/test_recall_runs.py::test_presets_with_a_memory_use_it[[]attention-dqn]": (
        "tests/play/test_trained.py::test_an_external_memory_is_emptied_too_when_an_agent_forgets"
    ),
    "tests/agents/test_statistics.py::test_an_agent_that_keeps_statistics_keeps_the_contract*": (
        "values by hand; tests/run/test_missing.py and test_resume.py: runs with statistics resume"
    ),
    "tests/agents/test_windows.py::test_predict_step_by_step_is_the_network_unrolled": (
        "test_acting_step_by_step_and_unrolling_see_the_same"
    ),
    # One kind, size or way of several. Those that stay differ in more than a number.
    "tests/agents/test_agent.py::test_the_learned_q_of_a_probe_is_its_true_value[[]One*": (
        "[Chain], [Termination], [Truncation], [ObservationValue]"
    ),
    "tests/agents/test_agent.py::test_the_learned_q_of_a_probe_is_its_true_value[[]TwoActions]": "[Chain]",
    "tests/agents/test_agent.py::test_distributions_and_priorities_*[[]Chain-prioritized]": (
        "tests/agents/test_matrix.py: [per-dqn-gru]"
    ),
    "tests/agents/test_agent.py::test_distributions_and_priorities_*[[]Chain-hl-gauss]": (
        "[Chain-categorical]; tests/losses: the loss by hand"
    ),
    "tests/agents/test_agent.py::test_rescaled_returns_are_learned_as_their_roots[[]quantile]": "[scalar]",
    "tests/agents/test_matrix.py::test_it_finds_the_values_of_the_chain[[]qr-dqn-history]": (
        "[per-dqn-gru]; tests/agents/test_agent.py: [Chain-quantile]"
    ),
    "tests/run/test_resume.py::test_a_host_run_with_stops_is_the_run_without[[]numpy, exact]": (
        "[numpy, replayed, four of them], [compiled, exact]"
    ),
    "tests/run/test_demonstrations.py::test_a_run_with_stops_is_the_run_without_*-windows]": "[*-prioritized]",
    "tests/run/test_demonstrations.py::test_a_run_with_stops_is_the_run_without_*-in the replay]": (
        "[*-prioritized]; rows in the replay are rows of any run"
    ),
    "tests/run/test_missing.py::test_a_device_run_of_several_seeds_resumes_exactly": (
        "test_a_host_run_resumes_exactly_..., test_resume: [two environments, three seeds]"
    ),
    "tests/run/test_evaluating.py::test_no_evaluation_is_missing_or_repeated_after_a_resume[[]before it-*": (
        "[at its beginning-*], [inside it-*]"
    ),
    "tests/run/test_evaluating.py::test_after_a_cut_another_episode_begins[[]numpy]": "[compiled]",
    "tests/run/test_evaluating.py::test_the_best_checkpoint_is_what_was_evaluated[[]numpy]": "[compiled]",
    "tests/run/test_prefill.py::test_the_first_step_after_it_acts_with_what_it_told[[]numpy]": "[compiled]",
    "tests/run/test_warm.py::test_weights_come_with_the_statistics_by_which_they_see[[]CartPole-v1]": (
        "[engram/CartPole-v1]"
    ),
    "tests/run/test_article.py::test_a_second_call_explores_anew_and_leaves_the_environment_open": (
        "test_the_sketch_of_the_article_runs_and_goes_on"
    ),
    "tests/working/test_working.py::test_a_bit_shown_once_can_be_learned_to_be_told_20_steps_later[[]lru]": "[gru]",
    "tests/working/test_working.py::test_history_keeps_the_contract_over_a_recurrence[[]numbers0]": "[numbers1]",
    "tests/external/test_chunked.py::test_chunks_hold_what_a_dictionary_holds*-tabular]": "[128-max]",
    "tests/external/test_chunked.py::test_with_all_chunks_opened_a_read_is_the_exact_one[[]fixed-inverse-*": (
        "[offered-inverse-distance]"
    ),
    "tests/external/test_external.py::test_every_eviction_keeps_the_contract_with_offered_actions[[]oldest]": (
        "[merge]; without offered actions all"
    ),
    "tests/external/test_external.py::test_every_kernel_keeps_the_contract[[]inverse-distance]": (
        "test_every_kind_keeps_the_contract[episodic], whose kernel it is"
    ),
    "tests/encoders/test_impala.py::test_it_keeps_the_contract_of_encoders[[]board]": "[image]",
    "tests/envs/test_bandit.py::test_bandits_keep_the_contract[[]arguments0]": "[arguments1]",
    "tests/envs/test_memory_envs.py::test_every_task_keeps_the_contract*arguments17]": (
        "tests/envs/test_popgym_tasks.py: Battleship by its rules; here the other tasks"
    ),
    "tests/envs/test_device_envs.py::test_our_environments_keep_the_contract[[]minatar-space_invaders]": (
        "[minatar-breakout]"
    ),
    "tests/envs/test_steady.py::test_drifting_dtypes_learn_and_are_evaluated[[]64 bits-{'[fs]*": (
        "[64 bits-{'pays': ..., 'moves': 1}], [32 bits-*]"
    ),
    "tests/agents/recall/test_line.py::test_an_entry_is_the_n_step_return_of_its_action[[]1]": "[3]",
    "tests/agents/recall/test_line.py::test_lanes_need_not_move_in_step[[]one]": "[three]",
    "tests/replay/test_draw.py::test_similar_takes_a_word_for_each_candidate_*=8)]": "[SimilarSpec(candidates=2)]",
    "tests/house/test_examples.py::test_the_python_of_a_page_runs[[]own-environment.md]": (
        "[README.md]; tests/envs/test_host_envs.py"
    ),
    "tests/house/test_examples.py::test_the_python_of_a_page_runs[[]tutorial.md]": "[README.md]",
    "tests/house/test_examples.py::test_the_cells_of_a_notebook_run[[]first_agent.ipynb]": "[README.md]",
    "tests/run/test_article.py::test_programs_are_kept_for_the_next_start": ALONE,
    "tests/run/test_article.py::test_an_episode_that_never_ends_is_named_and_what_was_learned_is_kept": (
        "tests/run/test_evaluating.py::test_an_episode_without_an_end_is_cut_off_and_that_is_said"
    ),
    "tests/envs/test_host_faults.py::test_sigterm_to_the_group_leaves_the_workers_to_the_main_process*": (
        "test_a_worker_that_hangs_is_named_and_ended; tests/cli/test_cli.py::test_a_terminated_run_saves_..."
    ),
    "tests/play/test_trained.py::test_the_programs_of_agents_that_are_gone_are_few": ALONE,
    "tests/agents/recall/test_recall_runs.py::test_a_run_is_refused_with_another_width_of_the_embedding": ALONE,
    "tests/external/test_external.py::test_every_kind_keeps_the_contract[[]chunked]": (
        "[episodic], [product-key], [graph]; tests/external/test_chunked.py: against a dictionary"
    ),
    "tests/tuning/test_tune.py::test_a_trial_that_is_left_goes_on_where_it_was": (
        "test_trials_are_runs_that_are_scored_...; tests/run/test_resume.py: a run goes on where it was"
    ),
    "tests/parts/test_own_parts.py::test_a_q_learner_keeps_the_contract_of_agents[[]box-drqn]": (
        "[box-dqn]; tests/agents/test_windows.py"
    ),
    "tests/run/test_loggers.py::test_wandb_itself_writes_an_offline_run_with_the_lines": (
        "test_a_run_logs_to_what_was_named_and_to_what_was_given_..."
    ),
    "tests/run/test_loggers.py::test_mlflow_has_each_line_once_in_its_file_store_also_across_a_resume": ALONE,
    "tests/run/test_demonstrations.py::test_agents_of_every_kind_learn_from_them[[]CartPole-v1-a working memory]": (
        "[engram/CartPole-v1-an external memory], test_a_run_with_stops_...[*-prioritized]"
    ),
    "tests/envs/test_steady.py::test_drifting_dtypes_learn_and_are_evaluated[[]32 bits-{'pays*": (
        "[32 bits-{}], [64 bits-{'pays': ...}]"
    ),
    "tests/run/test_missing.py::test_a_working_memory_learns_through_gaps_and_can_be_made_to_forget": (
        "test_a_host_run_resumes_exactly_evaluates_and_predicts[one]"
    ),
}


def stale(nodeids: list[str]) -> list[str]:
    """Patterns that fit none of these tests."""
    return [pattern for pattern in REPEATS if not any(fnmatch(nodeid, pattern) for nodeid in nodeids)]


def repeats(nodeid: str) -> bool:
    """Whether a quicker test shows the same."""
    return any(fnmatch(nodeid, pattern) for pattern in REPEATS)

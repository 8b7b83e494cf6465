"""Names that other libraries have for Engram's settings: each answer says what the setting is called here."""

from typing import NamedTuple


class Way(NamedTuple):
    """The setting that another name means, and what differs about its value, if anything does."""

    path: str
    note: str = ""


_UPDATES = "counted in updates, not in environment steps"
_STEPS = "environment steps, not a fraction of the run"
_ROLLOUT = "of agents that learn from rollouts: pqn, ppo, a2c"
_PRIORITIES, _ATOMS = "of draw=prioritized", "of head.returns=categorical"
_WIDTHS = "units of each hidden layer, such as 128,128"

# By our name: those of Stable-Baselines3, CleanRL, RLlib, Tianshou, Dopamine and of papers.
_OTHERS: dict[Way, tuple[str, ...]] = {
    Way("optimizer.learning_rate"): ("lr", "learning_rate", "step_size", "alpha", "lr_schedule"),
    Way("optimizer.epsilon"): ("adam_eps", "adam_epsilon", "eps_adam"),
    Way("optimizer.clip_norm"): ("max_grad_norm", "grad_clip", "gradient_clip", "clip_grad_norm"),
    Way("discount"): ("gamma", "discount_factor"),
    Way("replay.capacity"): (
        "buffer_size", "replay_size", "replay_buffer_size", "buffer_capacity", "memory_size",
    ),
    Way("replay.start"): ("learning_starts", "warmup_steps", "min_replay_history", "start_steps", "random_steps"),
    Way("replay.batch_size"): ("batch_size", "minibatch_size", "train_batch_size"),
    Way("replay.window"): ("sequence_length", "seq_len", "max_seq_len", "unroll_length", "context_length"),
    Way("replay.burn_in"): ("burn_in", "burnin"),
    Way("learn_every"): ("train_freq", "train_frequency", "update_every", "update_period"),
    Way("updates"): ("gradient_steps", "updates_per_step", "utd"),
    Way("target.every", _UPDATES): (
        "target_update_interval", "target_network_frequency", "target_update_freq", "target_network_update_freq",
        "target_update_period",
    ),
    Way("target.rate"): ("tau", "polyak"),
    Way("exploration.steps", _STEPS): ("exploration_fraction", "epsilon_decay", "eps_decay", "epsilon_timesteps"),
    Way("exploration.start"): ("exploration_initial_eps", "start_e", "eps_start", "epsilon_start", "initial_epsilon"),
    Way("exploration.end"): (
        "exploration_final_eps", "end_e", "eps_end", "epsilon_end", "final_epsilon", "epsilon_train", "epsilon",
    ),
    Way("n_step", "of ppo, a2c and pqn: rollout.steps"): ("n_steps", "nstep", "n_step_return", "multi_step"),
    Way("rollout.steps", _ROLLOUT): ("rollout_length", "rollout_steps", "rollout_fragment_length"),
    Way("rollout.epochs", _ROLLOUT): ("n_epochs", "num_epochs", "update_epochs", "num_sgd_iter"),
    Way("rollout.minibatches", _ROLLOUT): ("num_minibatches", "n_minibatches"),
    Way("trace", _ROLLOUT): ("gae_lambda", "td_lambda", "q_lambda", "lambda_", "lambda", "lam"),
    Way("optimizer.final_fraction", "of the step size at the end of the run; 1 for none"): ("anneal_lr", "lr_decay"),
    Way("clip", "of ppo and a2c"): ("clip_range", "clip_coef", "clip_param", "clip_eps"),
    Way("entropy_weight", "of ppo and a2c"): ("ent_coef", "entropy_coeff", "entropy_coef"),
    Way("value_weight", "of ppo and a2c"): ("vf_coef", "vf_loss_coeff", "value_coef"),
    Way("value_clip", "of ppo and a2c"): ("clip_range_vf", "clip_vloss", "vf_clip_param"),
    Way("standardize", "of ppo and a2c"): ("normalize_advantage", "norm_adv"),
    Way("double"): ("double_q", "double_dqn", "is_double"),
    Way("head", "dueling or q"): ("dueling", "dueling_network"),
    Way("reward_clip"): ("clip_reward", "clip_rewards", "reward_clipping"),
    Way("observation.stack"): ("frame_stack", "n_stack", "num_stack", "stack_size", "framestack"),
    Way("encoder.widths", _WIDTHS): (
        "policy_kwargs", "net_arch", "hidden_sizes", "hidden_layers", "fcnet_hiddens", "layers",
    ),
    Way("working.hidden_size"): ("lstm_hidden_size", "lstm_cell_size", "rnn_hidden_size"),
    Way("steps"): (
        "total_timesteps", "timesteps", "n_timesteps", "num_timesteps", "total_steps", "max_timesteps", "num_steps",
    ),
    Way("envs"): ("n_envs", "num_envs", "nenvs", "training_num"),
    Way("asynchronous"): ("vec_env_cls", "subproc", "vectorization_mode"),
    Way("seed"): ("random_seed", "rng_seed"),
    Way("seeds"): ("num_seeds", "n_seeds"),
    Way("preset"): ("algo", "algorithm", "agent", "model", "policy"),
    Way("run", "a folder"): ("log_dir", "logdir", "save_path", "output_dir", "logger_kwargs", "log_folder"),
    Way("track", "true or false"): ("tensorboard_log", "tensorboard", "tb_log_name"),
    Way("save_every"): ("save_freq", "checkpoint_freq", "checkpoint_frequency"),
    Way("log_every"): ("log_interval", "logging_interval", "print_freq"),
    Way("evaluate_every", "environment steps; 0 for none"): (
        "eval_freq", "eval_frequency", "eval_interval", "eval_every",
    ),
    Way("evaluate_episodes"): ("n_eval_episodes", "eval_episodes", "num_eval_episodes"),
    Way("evaluate_env"): ("eval_env",),
    Way("max_episode_steps"): ("time_limit", "episode_length", "max_steps_per_episode"),
    Way("draw.exponent", _PRIORITIES): (
        "prioritized_replay_alpha", "per_alpha", "priority_exponent", "priority_alpha", "draw.alpha",
    ),
    Way("draw.correction", _PRIORITIES): (
        "prioritized_replay_beta0", "prioritized_replay_beta", "per_beta", "priority_beta", "beta", "draw.beta",
    ),
    Way("draw.correction_updates", _PRIORITIES): ("prioritized_replay_beta_iters", "beta_steps", "beta_frames"),
    Way("head.returns.low", _ATOMS): ("v_min", "vmin", "head.v_min", "head.returns.v_min"),
    Way("head.returns.high", _ATOMS): ("v_max", "vmax", "head.v_max", "head.returns.v_max"),
    Way("head.returns.quantiles"): ("quantiles", "n_quantiles", "num_quantiles"),
    Way("head.returns.atoms"): ("atoms", "n_atoms", "num_atoms"),
    Way("env_args"): ("env_kwargs", "env_config", "make_kwargs"),
}  # fmt: skip
FAMILIAR = {other: way for way, others in _OTHERS.items() for other in others}
# What some of them mean to whoever comes from an agent that learns from rollouts, or from a soft actor-critic.
_PARTS = Way("rollout.minibatches", "how many there are of a rollout, not the size of one")
_HEAT = Way("head.temperature", "where it begins; it is learned, for target_entropy")
OF_KIND: dict[str, dict[str, Way]] = {
    "rollouts": {
        **dict.fromkeys(("n_steps", "num_steps"), Way("rollout.steps", "of each environment")),
        **dict.fromkeys(("batch_size", "minibatch_size", "train_batch_size"), _PARTS),
    },
    "sac": dict.fromkeys(("alpha", "ent_coef", "entropy_coef", "entropy_coeff"), _HEAT),
}

_DEVICE = "JAX takes a GPU where it finds one; the variable JAX_PLATFORMS=cpu, set before Python starts, keeps it off"
_KL = "clip, rollout.epochs and optimizer.learning_rate bound how far a policy moves; nothing stops an epoch early"
_HEATED = "the temperature of agent=sac is always learned, for target_entropy"
_PROGRESS = "progress is shown in a terminal or notebook; in Python, Trainer(progress=True) or False chooses"
_NO_SETTINGS = {
    **dict.fromkeys(("device", "cuda", "gpu", "use_gpu", "num_gpus", "no_cuda", "accelerator"), _DEVICE),
    **dict.fromkeys(("target_kl", "kl_coeff"), _KL),
    **dict.fromkeys(("autotune", "auto_alpha"), _HEATED),
    **dict.fromkeys(("verbose", "verbosity", "progress_bar", "show_progress", "quiet", "silent"), _PROGRESS),
}


def no_setting(name: str) -> str | None:
    """What there is instead of an option that other libraries have and no setting here stands for; None if nothing."""
    return _NO_SETTINGS.get(name.replace("-", "_").lower())


def familiar(name: str, kind: str = "") -> Way | None:
    """The setting that `name`, or the last word of a path such as `optimizer.lr`, means elsewhere; None if none.

    `kind`: of the agent, as in `OF_KIND`.
    """
    name = name.replace("-", "_").lower()
    last = name.rpartition(".")[2]
    whole = FAMILIAR.get(name) if "." in name else OF_KIND.get(kind, {}).get(name)
    return whole or FAMILIAR.get(name) or FAMILIAR.get(last)

"""The words of other libraries for settings that have another name here: Stable-Baselines3 and its Zoo, CleanRL,
PureJaxRL, Spinning Up. They are answered, not taken: some mean almost the same, and none shall be guessed."""

import re
from collections.abc import Callable, Set

# A word in braces is a setting of ours. A word is answered only where an algorithm has all of these.
RENAMED = {
    # The run
    **dict.fromkeys(("total_timesteps", "n_timesteps", "num_timesteps", "max_timesteps"), "{total_steps}"),
    **dict.fromkeys(("env_id", "env_name", "gym_id"), "{env}"),
    **dict.fromkeys(("n_envs", "num_workers", "n_workers"), "{num_envs}"),
    **dict.fromkeys(("vec_env", "vec_env_type"), "{env_backend}"),
    **dict.fromkeys(("env_wrapper", "env_wrappers"), "{wrapper}"),
    **dict.fromkeys(("n_seeds", "seeds"), "{num_seeds}, counted from {seed} on"),
    **dict.fromkeys(("eval_freq", "eval_interval"), "{eval_every}, counted over all environments"),
    **dict.fromkeys(("n_eval_episodes", "num_eval_episodes"), "{eval_episodes}"),
    **dict.fromkeys(("save_freq", "save_interval", "checkpoint_freq"), "{checkpoint_every}"),
    **dict.fromkeys(("log_interval", "log_freq"), "{log_every}, counted in steps"),
    **dict.fromkeys(("log_folder", "log_dir", "logdir", "tensorboard_log", "save_path", "exp_name"), "{run_dir}"),
    **dict.fromkeys(("track", "use_wandb", "wandb", "wandb_project_name"), "{logger} wandb"),
    **dict.fromkeys(("trained_agent", "load_model", "checkpoint"), "{resume} to go on, {init_from} to begin anew from"),
    # Networks and optimisers
    **dict.fromkeys(("learning_rate", "lr"), "{actor_learning_rate} and {critic_learning_rate}"),
    **dict.fromkeys(("policy_lr", "pi_lr", "actor_lr"), "{actor_learning_rate}"),
    **dict.fromkeys(("q_lr", "qf_lr", "vf_lr", "value_lr", "critic_lr"), "{critic_learning_rate}"),
    **dict.fromkeys(("net_arch", "hidden_dim", "hidden_size", "hsize"), "{hidden_sizes}"),
    **dict.fromkeys(("policy_kwargs", "activation", "activation_fn"), "{hidden_sizes}, or {networks} of your own"),
    "weight_decay": "{critic_weight_decay}",
    # On-policy
    **dict.fromkeys(("n_steps", "rollout_length", "unroll_length"), "{num_steps}, of each environment"),
    **dict.fromkeys(("n_epochs", "update_epochs", "noptepochs"), "{num_epochs}"),
    **dict.fromkeys(
        ("batch_size", "minibatch_size", "sgd_minibatch_size"),
        "{num_minibatches}: a minibatch has {num_envs} x {num_steps} rows divided by it",
    ),
    **dict.fromkeys(("n_minibatches", "nminibatches"), "{num_minibatches}"),
    **dict.fromkeys(("clip_range", "clip_coef", "clip_ratio", "clip_param"), "{clip_eps}"),
    **dict.fromkeys(
        ("clip_range_vf", "clip_vloss", "vf_clip_param", "value_clip"),
        "{value_clip_eps}, in units of the return",
    ),
    **dict.fromkeys(("entropy_coef", "entropy_coeff", "entropy_cost"), "{ent_coef}"),
    **dict.fromkeys(
        ("vf_coef", "value_coef", "vf_loss_coeff"),
        "{critic_learning_rate}: the critic is a network with an optimiser of its own",
    ),
    **dict.fromkeys(("norm_adv", "normalize_advantage"), "{normalize_advantages}"),
    **dict.fromkeys(("anneal_lr", "linear_lr", "lr_schedule"), "{anneal_learning_rate}"),
    **dict.fromkeys(("normalize", "normalize_env"), "{normalize_obs} and {normalize_reward}"),
    **dict.fromkeys(("norm_obs", "normalize_observation"), "{normalize_obs}"),
    **dict.fromkeys(("norm_reward", "normalize_rewards"), "{normalize_reward}"),
    **dict.fromkeys(("lam", "lambda", "gae_lam"), "{gae_lambda}"),
    "log_std_init": "{initial_log_std}",
    "squash_output": "{squash_actions}",
    "target_kl": "{stop_kl}, which ends an update at a bound as others' target_kl does; {kl_target} is the KL "
    "divergence that an adaptive penalty aims at",
    # Off-policy
    **dict.fromkeys(("replay_size", "buffer_capacity", "memory_size"), "{buffer_size}"),
    **dict.fromkeys(("start_timesteps", "start_steps", "warmup_steps", "n_warmup_steps"), "{learning_starts}"),
    **dict.fromkeys(
        ("train_freq", "gradient_steps", "utd", "utd_ratio"),
        "{updates_per_step}, for each joint step of {num_envs} environments",
    ),
    **dict.fromkeys(("action_noise", "expl_noise", "noise_std"), "{exploration_noise}, in half the action's range"),
    **dict.fromkeys(("ou_theta", "theta"), "{noise_correlation}, which is 1 - theta dt of others"),
    "noise_type": "{noise_correlation}, 0 for normal noise and more for Ornstein-Uhlenbeck's",
    "policy_frequency": "{policy_delay}",
    "target_policy_noise": "{policy_noise}, in units of half the action's range",
    "target_noise_clip": "{noise_clip}, in units of half the action's range",
    "polyak": "{tau}, which is 1 - polyak",
    **dict.fromkeys(("ent_coef", "alpha"), "{initial_alpha}, which {alpha_learning_rate} none keeps as it is"),
    **dict.fromkeys(("autotune", "auto_alpha"), "{alpha_learning_rate}, none for no tuning"),
    "alpha_lr": "{alpha_learning_rate}",
}
ABSENT = {
    **dict.fromkeys(("device", "cuda", "use_cuda", "gpu"), "the variable JAX_PLATFORMS says cpu or cuda"),
    **dict.fromkeys(
        ("torch_deterministic", "deterministic_torch"), "leave it off, a run is repeatable by its {seed} as it is"
    ),
    **dict.fromkeys(("save_model", "upload_model"), "leave it off, a run always leaves its policies in {run_dir}"),
    **dict.fromkeys(("verbose", "progress"), "leave it off, a run says how far it is, and {log_every} how often"),
    "capture_video": "jaxrl evaluate RUN_DIR --video FOLDER films a run, also one that is not over",
    **dict.fromkeys(("use_sde", "sde_sample_freq"), "leave it off, state-dependent exploration is not supported"),
}


def ours_for(name: str, settings: Set[str], shown: Callable[[str], str]) -> str | None:
    """The answer to a name that is none of `settings`, in one clause; None where it is no word of others either.

    Args:
      name: of a setting, such as `learning_rate` or `LR`.
      settings: the names that an algorithm takes, those of the run and of its loop included.
      shown: a setting's name as the user would write it.
    """
    word = name.replace("-", "_").lower()
    if word in settings:
        return f"here it is {shown(word)}" if name != word else None
    for table, clause in ((RENAMED, "here it is {}"), (ABSENT, "not a setting here: {}")):
        answer = table.get(word, table.get(word.removeprefix("no_"), ""))
        names = re.findall(r"\{(\w+)\}", answer)
        if answer and settings >= set(names):
            return clause.format(answer.format(**{each: shown(each) for each in names}))
    return None

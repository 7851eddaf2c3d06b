"""The command that runs a saved policy."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrl.cli.startup import check_display
from jaxrl.errors import BadInput
from jaxrl.output import say

if TYPE_CHECKING:
    from jaxrl.cli.flags import EvaluateFlags
    from jaxrl.storage.policy import Policy


def run_policy(flags: "EvaluateFlags") -> None:
    """Runs a saved policy for whole episodes and prints their returns; BadInput where it cannot."""
    import numpy as np

    from jaxrl.envs.device_backends import DEVICE_BACKENDS
    from jaxrl.envs.make import make_envs
    from jaxrl.storage.policy import load_policy
    from jaxrl.training.evaluate import MAX_ENVS_IN_TURN, cut_line, evaluate, make_eval_envs

    _check_flags(flags)
    policy = load_policy(flags.run_dir, networks=flags.networks)
    record = _record_of(flags, policy.notes, policy.wrapper) if flags.recorded else {}
    backend = record.get("backend", policy.notes.get("env_backend", "gymnasium"))
    env, wrapper = _environment_of(flags, record.get("env", policy.env), policy.wrapper, backend in DEVICE_BACKENDS)
    episodes, seed = record.get("episodes", flags.episodes or 10), record.get("seeds", flags.seed or 0)
    if backend in DEVICE_BACKENDS and (backend != "jax" or not _needs_gymnasium(flags)):
        _run_on_device(flags, policy, env, backend, record)
        return
    recorder = None
    options: dict[str, Any] = {} if flags.max_episode_steps is None else {"max_episode_steps": flags.max_episode_steps}
    if flags.render:
        envs = make_envs(env, 1, 0, wrapper=wrapper, render_mode="human", **options)
    elif flags.video is not None:
        from jaxrl.envs.video import VideoRecorder, is_animation

        path = Path(flags.video)
        episodes = flags.episodes or (1 if is_animation(path) else 10)
        recorder = VideoRecorder(env, path, **options)
        envs = make_envs(recorder, 1, 0, wrapper=wrapper)
    else:
        max_envs, host = record.get("num_envs", MAX_ENVS_IN_TURN), record.get("backend", "gymnasium")
        envs = make_eval_envs(env, episodes, wrapper, record.get("on_fault", "stop"), host, max_envs, **options)
    policy.check_spaces(envs.observation_space, envs.action_space)
    if flags.recorded and envs.num_envs != record["num_envs"]:
        raise BadInput(f"the evaluation ran in {record['num_envs']} environments, here it is {envs.num_envs}")
    if flags.stochastic and policy.deterministic:
        raise BadInput(
            f"--stochastic samples actions, but the policy in {flags.run_dir} is deterministic: leave it off"
        )
    rng = np.random.default_rng(flags.seed or 0) if flags.stochastic else None
    for name in envs.normalizing:
        say(f"the environment has {name} inside: it begins with new statistics, not those of the training", sys.stdout)
    cut: list[Any] = []
    # An evaluation whose record says nothing of a bound had none.
    max_steps = record.get("max_steps", sys.maxsize) if flags.recorded else None
    results = evaluate(lambda obs: policy.act(obs, rng), envs, episodes, seed, max_steps=max_steps, cut=cut)
    envs.close()
    if recorder is not None:
        recorder.save()
    assert results is not None
    _print_results(env, *results, f"{cut_line(cut, episodes)} (--max-episode-steps)" if cut else "", record)


def _print_results(env: str, returns: Any, lengths: Any, cut: str, record: dict[str, Any]) -> None:
    """A line for each episode, one for those that were cut, the mean, and whether it is the one that was recorded."""
    import numpy as np

    for episode_return, length in zip(returns, lengths, strict=True):
        say(f"return {episode_return:.1f}, {length} steps", sys.stdout)
    if cut:
        say(cut, sys.stdout)
    with np.errstate(all="ignore"):
        mean = f"mean return {returns.mean():.1f} +- {returns.std():.1f}"
    say(f"{env}: {mean} over {len(returns)} episodes", sys.stdout)
    if record:
        same = float(returns.mean()) == record["mean_return"]
        found = f"{record['mean_return']:.1f} at step {record['step']:,}, {'the same' if same else 'another'}"
        say(f"recorded: {found}", sys.stdout)


def _needs_gymnasium(flags: "EvaluateFlags") -> bool:
    """True if something is asked for that the device does not do. The built-in tasks there are Gymnasium's too."""
    return bool(flags.render or flags.video or flags.stochastic or flags.wrapper)


def _run_on_device(flags: "EvaluateFlags", policy: "Policy", env: str, backend: str, record: dict[str, Any]) -> None:
    """Runs whole episodes of a policy that was trained on the device, there."""
    import numpy as np

    from jaxrl.envs.on_device import make_device_envs
    from jaxrl.training.device_evaluator import bounded, cut_episodes, run_episodes
    from jaxrl.training.evaluate import cut_line

    if _needs_gymnasium(flags):
        name = next(name for name in ("render", "video", "stochastic", "wrapper") if getattr(flags, name))
        raise BadInput(
            f"--{name} needs an environment of Gymnasium's, and {env} is one of backend {backend}: leave it off"
        )
    count = record.get("episodes", flags.episodes or 10)
    envs = make_device_envs(env, record.get("num_envs", count), backend)
    policy.check_spaces(envs.observation_space, envs.action_space)
    envs, bound = bounded(envs, record.get("max_steps") if record else flags.max_episode_steps)
    [seed] = record.get("seeds") or np.random.SeedSequence(flags.seed or 0).generate_state(1)
    returns, lengths = run_episodes(envs, *policy.parts, int(seed), count)
    cut = cut_episodes(returns, lengths, bound)
    _print_results(env, returns, lengths, f"{cut_line(cut, count)} (--max-episode-steps)" if cut else "", record)


def _check_flags(flags: "EvaluateFlags") -> None:
    if flags.episodes is not None and not 1 <= flags.episodes <= 10**5:
        raise BadInput(f"--episodes is {flags.episodes}: it must be from 1 to 100,000")
    if flags.seed is not None and flags.seed < 0:
        raise BadInput(f"--seed is {flags.seed}: it must be at least 0")
    if flags.max_episode_steps is not None and flags.max_episode_steps < 1:
        raise BadInput(f"--max-episode-steps is {flags.max_episode_steps}: it must be at least 1")
    if flags.render and flags.video is not None:
        raise BadInput("--render shows the episodes and --video records them: give one of the two")
    if flags.render:
        check_display()


def _record_of(flags: "EvaluateFlags", notes: dict[str, Any], wrapper: tuple[str, ...]) -> dict[str, Any]:
    """The evaluation that a policy records, to be repeated."""
    record = notes.get("evaluation")
    if not isinstance(record, dict) or not {"env", "on_fault", "episodes", "seeds", "num_envs"} <= record.keys():
        raise BadInput(f"the policy in {flags.run_dir} records no evaluation: leave --recorded off")
    own = "episodes", "seed", "stochastic", "max_episode_steps", "render", "video"
    changed = [name for name in own if getattr(flags, name) not in (None, False)]
    changed += ["env"] * (flags.env not in (None, record["env"]))
    if flags.wrapper != wrapper and (flags.wrapper or wrapper):
        named = f"say --wrapper {' '.join(wrapper)}" if wrapper else "leave --wrapper off"
        raise BadInput(f"--recorded repeats an evaluation as it was: {named}")
    if changed:
        raise BadInput(f"--recorded repeats an evaluation as it was: leave --{changed[0].replace('_', '-')} off")
    return record


def _environment_of(
    flags: "EvaluateFlags", env: str, wrapper: tuple[str, ...], on_device: bool
) -> tuple[str, tuple[str, ...]]:
    """The environment to evaluate in and the wrappers around it. A name in a file is code to be imported: only whoever
    gives the command may ask for that. Names of tasks on the device import nothing."""
    if flags.env is None and ":" in env and not on_device:
        raise BadInput(f"the policy was trained on {env}, which imports a module: say --env {env} if that is right")
    if not flags.wrapper and wrapper:
        names = " ".join(wrapper)
        raise BadInput(f"the policy was trained under wrappers, which import modules: say --wrapper {names}, or none")
    return env if flags.env is None else flags.env, () if flags.wrapper == ("None",) else flags.wrapper

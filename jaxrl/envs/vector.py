"""Vector environments without their autoreset conventions: one adapter that yields true transitions. No JAX here.

Gymnasium has three conventions for what happens after an episode's end. NEXT_STEP returns the final observation, then
spends the next step on a reset that ignores the action; SAME_STEP resets at once and hides the final observation in
`infos`; DISABLED resets when told to. Behind `Envs` they look alike, but for `Transition.valid`, which marks the rows
that NEXT_STEP spends on resetting.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from jaxrl.data.transition import Transition
from jaxrl.envs.actions import ActionAdapter
from jaxrl.envs.answers import flags, narrowed, numbers, parts_of
from jaxrl.envs.client import VectorClient
from jaxrl.envs.episodes import EpisodeCounter, FinishedEpisode
from jaxrl.envs.faults import Fault, FaultCheck, faults_of, is_finite, mask_of
from jaxrl.envs.guard import NOTICE_KEY, marks
from jaxrl.envs.observations import ObservationReader
from jaxrl.errors import BadInput
from jaxrl.report import tell
from jaxrl.timer import timed, timer

DISABLED, NEXT_STEP, SAME_STEP = AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP


class Envs:
    """N environments that step together.

    Args:
      vector_env: the environments, in any autoreset mode.
      seed: as of `reset`.
      on_fault: "stop" raises at a fault; "reset" resets the environment it happened in, and notes it in `faults`.
      timeout: seconds that an environment in a process of its own may take for an answer.

    Attributes:
      num_envs: N.
      vector_env: as given.
      marks_valid: whether its transitions say which of their rows are `valid`.
      observation_space, action_space: those of a single environment.
      obs: `(N, S)` float32, what to act on next; raw, flattened as `jaxrl.data.spaces` says.
      finished: the episodes that ended on the last step.
      faults: the environments that were reset for a fault on the last step; always empty under `on_fault="stop"`.

    Raises:
      BadInput: the spaces, the autoreset mode or an argument is not supported, or there is not enough memory.
    """

    def __init__(
        self, vector_env: VectorEnv, seed: int | np.random.SeedSequence, on_fault: str = "stop", timeout: float = 60.0
    ) -> None:
        self._client = VectorClient(vector_env, timeout)
        if on_fault not in ("stop", "reset"):
            raise BadInput(f"on_fault is {on_fault!r}: it must be 'stop' or 'reset'")
        if on_fault == "reset" and not self._client.resets_one:
            name = type(vector_env.unwrapped).__name__
            raise BadInput(f"{name} cannot reset one of its environments alone: on_fault must be 'stop'")
        self.vector_env, self._mode = vector_env, self._client.mode
        self.marks_valid = on_fault == "reset" or self._mode is NEXT_STEP
        self.num_envs: int = vector_env.num_envs
        self.observation_space = vector_env.single_observation_space
        self.action_space = vector_env.single_action_space
        self._observations = ObservationReader(self.observation_space, self.num_envs)
        self._actions = ActionAdapter(self.action_space, self.num_envs)
        self._fault_check = FaultCheck(self.num_envs, self._observations.layout, on_fault == "reset")
        self._client.take_over()
        try:
            self._observations.check_memory()
            self.reset(seed)
        except BaseException:
            self.close()
            raise

    def seeds(self, seed: int | np.random.SeedSequence) -> list[int]:
        """Returns what `reset(seed)` resets with: a number for each environment, or one where they are native."""
        return self._client.seeds(seed)

    def reset(self, seed: int | np.random.SeedSequence | Sequence[int]) -> None:
        """Begins a new episode everywhere, with a random stream of its own for each environment, given by `seed`: a
        number, a sequence to draw from, or what `seeds` gave."""
        words = list(seed) if isinstance(seed, Sequence) else self.seeds(seed)
        self.finished: list[FinishedEpisode] = []
        self.faults: list[Fault] = []
        self._ended = np.zeros(self.num_envs, bool)
        self._episodes = EpisodeCounter(self.num_envs)
        self._fault_check.reset()
        self._client.lost = False
        self.obs = self._reset(seed=words if self._client.one_seed_each else words[0])
        self._check_starts(0)

    @property
    def failed(self) -> bool:
        """True if an environment was lost, or ended the run with a fault, since the last reset."""
        return self._client.lost or self._fault_check.stopped

    @property
    def running(self) -> list[FinishedEpisode]:
        """The episodes that are under way, one for each environment, as they stand."""
        return self._episodes.running

    @property
    def can_break_off(self) -> bool:
        """True if `break_off` can begin a new episode in one environment alone."""
        return self._client.can_break_off

    def break_off(self, mask: np.ndarray) -> None:
        """Forgets the episodes under way in the environments of `mask`, `(N,)` boolean, and begins new ones there."""
        self._episodes.forget(mask)
        self._begin_anew(mask)
        self._check_starts(0)

    @property
    def time_limit(self) -> int | None:
        """Steps after which each of the environments has ended its episode by itself, as far as can be seen; None where
        one of them may go on for ever."""
        return self._client.time_limit

    @property
    def normalizers(self) -> list[list[Any]]:
        """Gymnasium's normalising wrappers, of each environment a list, the outermost first; empty where environments
        run in other processes. `normalizing` has their names also there."""
        return self._client.normalizers

    @property
    def normalizing(self) -> list[str]:
        """The names of the normalising wrappers inside these environments, as far as can be seen."""
        return self._client.normalizing

    @timed("adapter")
    def step(self, action: np.ndarray) -> Transition:
        """Takes one step in every environment.

        Args:
          action: in the environment's units, `(N, ...)` with the space's shape, or flattened, `(N, A)`; `(N,)` where
            an action is one number. The environment gets it in the space's shape and type. A Box action is clipped to
            the bounds on its way. The transition keeps what was given.

        Returns:
          Rows `(N,)`, NumPy: float32 observations and rewards, boolean flags. `valid` is None unless the vector
          environment spends steps on resetting, or faults are not to stop it: the row of a fault is not valid, and
          what follows it is another episode.

        Raises:
          BadInput: the actions have another shape, or are not whole numbers in a space of such.
          EnvironmentFault: something is not finite, or MuJoCo could not compute; under `on_fault="reset"` only where
            resetting that environment does not help.
          EnvironmentLost: an environment raised, died, or gave no answer in time.
        """
        obs, action = self.obs, np.asarray(action)
        env_action = self._actions.to_env(action)
        self.finished, self.faults = [], []
        wrong = {} if is_finite(action) else self._bad_actions(action)  # A text for each faulty index.
        with timer("environment"):
            answer = self._client.call("step", env_action)
        try:  # Copies: an environment may write its next step over this one.
            raw_obs, reward, terminated, truncated, infos = parts_of(answer, "step")
            reward = numbers("reward", reward, self.num_envs)
            terminated = flags("terminated", terminated, self.num_envs)
            truncated = flags("truncated", truncated, self.num_envs)
            next_obs = self.obs = self._observations.read(raw_obs)
        except ValueError as error:
            raise self._client.refused(error) from None
        infos = infos if isinstance(infos, dict | Mapping) else {}  # A dict is recognised faster than a Mapping.

        valid = None
        if self._mode is NEXT_STEP:
            valid = ~self._ended
            reward, terminated, truncated = np.where(valid, reward, 0.0), terminated & valid, truncated & valid
        elif self.marks_valid:
            valid = np.ones(self.num_envs, bool)
        ended = terminated | truncated
        any_ended = bool(np.count_nonzero(ended))
        if any_ended and self._mode is SAME_STEP:
            next_obs = self._with_final(infos, ended)
        to_reset = ended if any_ended and self._mode is DISABLED else None

        steps = self.num_envs if valid is None else int(np.count_nonzero(valid))
        wrong |= self._fault_check.of_step(reward, next_obs, infos)
        harmful = wrong
        if wrong and valid is not None:  # A row that is no transition does no harm.
            harmful = {index: what for index, what in wrong.items() if valid[index]}
        if harmful:
            faulty = self._put_aside(harmful, steps)
            reward, terminated, truncated = np.where(faulty, 0.0, reward), terminated & ~faulty, truncated & ~faulty
            next_obs = np.where(faulty[:, None], obs, next_obs)
            valid, ended = ~faulty if valid is None else valid & ~faulty, ended & ~faulty
            to_reset = faulty if to_reset is None else to_reset | faulty

        self._episodes.add(reward, valid)
        if any_ended:
            self.finished = self._episodes.finish(ended)
            self._fault_check.counts[ended] = 0
        if to_reset is not None:
            self._begin_anew(to_reset)
        if wrong or self.obs is not next_obs:  # Otherwise it was looked at above.
            self._check_starts(steps)
        self._ended = ended
        return Transition(obs, action, narrowed(reward), next_obs, terminated, truncated, valid)

    def state(self) -> dict[str, Any] | None:
        """Returns all that the environments and this adapter need to continue from here, JSON-able; None where it
        cannot be known: of environments that `jaxrl.envs.snapshot` does not know, and of those that have failed."""
        if self.failed or (states := self._client.snapshot()) is None:
            return None
        counts = {name: array.tolist() for name, array in self._saved_arrays().items()}
        return {"envs": states, "obs": self.obs.tolist(), **counts}

    def set_state(self, state: dict[str, Any]) -> None:
        """Brings environments that have been reset to what `state` gave.

        Raises:
          KeyError, TypeError, ValueError, EnvironmentLost: the state is of other environments.
        """
        states, obs = state["envs"], np.array(state["obs"], np.float32)
        if obs.shape != self.obs.shape:
            raise ValueError("the observations have another shape")
        self._client.restore(states)
        self.obs = obs
        for name, array in self._saved_arrays().items():
            array[:] = np.array(state[name], array.dtype)

    def render(self) -> None:
        """Draws the environments where their render mode asks for a call."""
        self.vector_env.render()

    def close(self) -> None:
        """Releases what the environments hold; no process of theirs is left."""
        self._client.close()

    def shares_with(self, other: "Envs") -> bool:
        """Returns whether one and the same environment steps in both."""
        return self._client.shares_with(other._client)

    def _saved_arrays(self) -> dict[str, np.ndarray]:
        """The arrays of this adapter that a checkpoint holds, under the names that they have there."""
        return {
            "_ended": self._ended,
            "_returns": self._episodes.returns,
            "_lengths": self._episodes.lengths,
            "_num_faults": self._fault_check.counts,
        }

    def _reset(self, **options: Any) -> np.ndarray:
        """The observations after a reset of those environments that the options say."""
        answer = self._client.call("reset", **options)
        try:
            raw_obs, infos = parts_of(answer, "reset")
            for notice in marks(infos, NOTICE_KEY).values():
                tell(notice)
            return self._observations.read(raw_obs)
        except ValueError as error:
            raise self._client.refused(error) from None

    def _begin_anew(self, mask: np.ndarray) -> None:
        # The environment takes the mask out of the dict that it is given.
        self.obs = np.where(mask[:, None], self._reset(options={"reset_mask": mask.copy()}), self.obs)

    def _with_final(self, infos: Mapping[str, Any], ended: np.ndarray) -> np.ndarray:
        try:
            return self._observations.with_final(self.obs, infos, ended)
        except ValueError as error:
            raise self._client.refused(error) from None

    def _bad_actions(self, action: np.ndarray) -> dict[int, str]:
        wrong = self._fault_check.of_action(action)
        if self._mode is NEXT_STEP:  # Where an episode is over, the action is ignored.
            wrong = {index: what for index, what in wrong.items() if not self._ended[index]}
        if wrong and not self._fault_check.resets:
            raise self._fault_check.stop(wrong, self.num_envs)
        return wrong

    def _put_aside(self, wrong: dict[int, str], steps: int) -> np.ndarray:
        """Notes the faults and forgets the episodes that they spoil; returns the mask of these environments."""
        mask = self._fault_check.to_reset(wrong, steps)
        self.faults = faults_of(wrong)
        self._episodes.forget(mask)
        return mask

    def _check_starts(self, steps: int) -> None:
        """The observations to act on next must be finite. A first observation that is not finite gets a second chance
        under `on_fault="reset"`."""
        if is_finite(self.obs):
            return
        wrong = self._fault_check.of_start(self.obs)
        if wrong and self._fault_check.resets:
            self.faults += faults_of(wrong)
            self._begin_anew(mask_of(wrong, self.num_envs))
            wrong = self._fault_check.of_start(self.obs, again=True)
        if wrong:
            raise self._fault_check.stop(wrong, steps)

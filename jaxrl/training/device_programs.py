"""The compiled calls of runs on the device, and where their arrays lie."""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl.envs.on_device import DeviceEnvs
from jaxrl.runs.config import RunConfig
from jaxrl.runs.stack import from_host
from jaxrl.timer import timer
from jaxrl.training.device_loops import Carry, off_policy_call, on_policy_call
from jaxrl.training.sharding import carry_shardings, mesh_of, shared, sharing

MAX_UPDATES = 1024  # In one call, where the settings do not say how many.


class Programs:
    """The compiled calls of runs that differ in numbers only, each for `size` of them at once.

    Args:
      run: the settings of one of them.
      envs: the environments of one.
      size: how many there are.
    """

    def __init__(self, run: RunConfig, envs: DeviceEnvs, size: int) -> None:
        self._run, self._envs, self._size, self._mesh = run, envs, size, mesh_of(run)
        self._compiled: dict[tuple[bool, int], Any] = {}

    def placed(self, carry: Carry) -> Carry:
        """The carry on the devices that share it: where these are of several processes, as the first has it."""
        if self._mesh is None:
            return carry
        shardings = carry_shardings(carry, self._mesh, self._size)
        return (shared if self._run.distributed else jax.device_put)(carry, shardings)

    def compiled(self, carry: Carry, counts: Any, numbers: Any, is_random: bool) -> Any:
        """The program, compiled when it is first asked for. `counts` is one number of updates for all runs, or `(S,)`,
        one for each: that is a program of its own, because it is slower."""
        kind = is_random, np.ndim(counts)
        if kind not in self._compiled:
            run, most = self._run, max(self._run.updates_per_call or 1, MAX_UPDATES)
            if run.row.loop == "on_policy":
                call = on_policy_call(run, self._envs, most)
            else:
                call = off_policy_call(run, self._envs, most, is_random)
            if self._size > 1:
                call = jax.vmap(call, in_axes=(0, 0 if np.ndim(counts) else None, 0))
            # The result lies where the next call takes it, and the report where every process can read it.
            report = NamedSharding(self._mesh, PartitionSpec()) if self._run.distributed and self._mesh else None
            where = None if self._mesh is None else (carry_shardings(carry, self._mesh, self._size), report)
            jitted = jax.jit(call, donate_argnums=0, out_shardings=where)
            with timer("compile"), sharing(self._mesh, self._size):
                program = from_host(jitted.lower)(carry, counts, numbers).compile()
            self._compiled[kind] = from_host(program)
        return self._compiled[kind]

"""Several devices that share a run on the device: each has a part of the environments, or of the seeds, and all have
the rest. The kernels know nothing of it; XLA adds what the devices must tell each other."""

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl.device import DEVICES
from jaxrl.errors import BadInput
from jaxrl.runs.config import RunConfig
from jaxrl.training.device_loops import Carry


def check_devices(run: RunConfig, size: int) -> None:
    """Raises BadInput, in one line, where `size` runs with these settings cannot share so many devices."""
    count, devices = run.num_devices, jax.devices()
    if run.num_envs % count and not spreads_runs(count, size):
        raise BadInput(f"num_devices {count} does not divide num_envs {run.num_envs} into equal parts")
    if count > len(devices):
        kind, there = devices[0].platform, len(devices)
        trial = f"; for a trial, XLA_FLAGS=--xla_force_host_platform_device_count={count} makes a CPU as many"
        raise BadInput(
            f"num_devices is {count}, and JAX has {there} of kind {kind}: it must be at most {there}"
            f"{trial if kind == 'cpu' else ''}"
        )


def mesh_of(num_devices: int) -> Mesh | None:
    """The first devices as a mesh of one axis; None for a single one."""
    return None if num_devices == 1 else Mesh(np.array(jax.devices()[:num_devices]), (DEVICES,))


def spreads_runs(num_devices: int, size: int) -> bool:
    """True if each device has some of `size` runs, and not some of the environments of each."""
    return size > 1 and size % num_devices == 0


def sharing(mesh: Mesh | None, size: int) -> AbstractContextManager[Any]:
    """The context in which a program for `size` runs is traced: it tells `split_over_devices` of devices that share the
    minibatches of a run."""
    if mesh is None or spreads_runs(mesh.size, size):
        return contextlib.nullcontext()
    # The name is that of JAX from 0.7 on.
    use: Any = jax.set_mesh if hasattr(jax, "set_mesh") else getattr(jax.sharding, "use_mesh")  # noqa: B009
    return use(mesh)


def carry_shardings(carry: Carry, mesh: Mesh, size: int) -> Any:
    """Where each array of the carry lies.

    Seeds are spread over the devices where these divide them: then nothing needs to be told. Else each device has as
    many of the environments, and the learner, the statistics and the buffer are the same everywhere.

    Args:
      carry: of `size` runs, with a leading axis where there are two or more.
      mesh: the devices.
      size: how many runs are served together.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    by_run = NamedSharding(mesh, PartitionSpec(DEVICES))
    if spreads_runs(mesh.size, size):
        return jax.tree.map(lambda _: by_run, carry)
    by_env = by_run if size == 1 else NamedSharding(mesh, PartitionSpec(None, DEVICES))
    shardings = jax.tree.map(lambda _: everywhere, carry)
    envs: Any = jax.tree.map(lambda _: by_env, carry.env_state)
    envs = envs._replace(key=everywhere, first_states=shardings.env_state.first_states)
    statistics: Any = shardings.normalizer._replace(discounted=by_env)
    return shardings._replace(env_state=envs, normalizer=statistics)

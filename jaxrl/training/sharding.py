"""Several devices that share a run on the device: each has a part of the environments, or of the seeds, and all have
the rest. The kernels know nothing of it; XLA adds what the devices must tell each other. In a distributed run they are
those of several processes: then an array is one for all of these, and each can read its own part alone."""

import contextlib
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl.device import DEVICES
from jaxrl.errors import BadInput
from jaxrl.runs.config import RunConfig
from jaxrl.training.device_loops import Carry


def check_devices(run: RunConfig, size: int) -> None:
    """Raises BadInput, in one line, where `size` runs with these settings cannot share so many devices."""
    count, devices = run.num_devices, jax.devices()
    if run.distributed and run.num_envs % len(devices):
        raise BadInput(
            f"the {len(devices)} devices of the run's {jax.process_count()} processes do not divide num_envs "
            f"{run.num_envs} into equal parts"
        )
    if run.num_envs % count and not spreads_runs(count, size):
        raise BadInput(f"num_devices {count} does not divide num_envs {run.num_envs} into equal parts")
    if count > len(devices):
        kind, there = devices[0].platform, len(devices)
        trial = f"; for a trial, XLA_FLAGS=--xla_force_host_platform_device_count={count} makes a CPU as many"
        raise BadInput(
            f"num_devices is {count}, and JAX has {there} of kind {kind}: it must be at most {there}"
            f"{trial if kind == 'cpu' else ''}"
        )


def mesh_of(run: RunConfig) -> Mesh | None:
    """The run's devices as a mesh of one axis; None for a single one."""
    if run.distributed:
        return Mesh(np.array(jax.devices()), (DEVICES,))
    return None if run.num_devices == 1 else Mesh(np.array(jax.devices()[: run.num_devices]), (DEVICES,))


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
    many of the environments, and the learner, the statistics and the buffer are the same everywhere. Discounted returns
    lie with their environments, unless a process that has but some of them is to read them all.

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
    statistics: Any = shardings.normalizer._replace(discounted=everywhere if mesh.is_multi_process else by_env)
    return shardings._replace(env_state=envs, normalizer=statistics)


def shared(tree: Any, shardings: Any) -> Any:
    """The arrays of a tree, as the first process has them, where `shardings` says on the devices of all processes.
    Every process must call it, with a tree of the same shapes."""

    def place(like: Any, content: np.ndarray, sharding: NamedSharding) -> Any:
        plain = _plain(like)
        array = content.view(plain.dtype).reshape(plain.shape)
        placed = jax.make_array_from_callback(array.shape, sharding, array.__getitem__)
        return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(like)) if _is_key(like) else placed

    return jax.tree.map(place, tree, _bytes_of_first(tree), shardings)


def of_first(tree: Any) -> Any:
    """The NumPy arrays of a tree, as the first process has them. Every process must call it."""
    return jax.tree.map(lambda like, content: content.view(like.dtype).reshape(like.shape), tree, _bytes_of_first(tree))


def _bytes_of_first(tree: Any) -> Any:
    """As bytes, which arrive as they are: what is sent is a sum over the processes, of zeros for all but the first."""
    return multihost_utils.broadcast_one_to_all(
        jax.tree.map(lambda leaf: np.frombuffer(_plain(leaf).tobytes(), np.uint8), tree)
    )


def own_part(tree: Any) -> Any:
    """A tree that lies on the devices of several processes, where each has all of it, as one of this process has it.
    Any other tree as it is."""
    return jax.tree.map(lambda x: x if x.is_fully_addressable else x.addressable_data(0), tree)


def gathered(tree: Any) -> Any:
    """A tree whose parts lie on the devices of several processes, as a whole on one of this process. Every process must
    call it."""
    mesh = jax.tree.leaves(tree)[0].sharding.mesh
    return own_part(jax.jit(_same, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree))


def _same(tree: Any) -> Any:
    return tree


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> np.ndarray:
    """An array in NumPy; of keys their data."""
    return np.asarray(jax.device_get(jax.random.key_data(leaf) if _is_key(leaf) else leaf))

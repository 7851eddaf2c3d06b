"""The house: which module may import which, what importing costs, and the names that others rely on."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxrl

PACKAGE = Path(jaxrl.__file__).parent

# From the ground up; a module imports only from floors below its own.
FLOORS = [
    {"errors", "transition", "memory", "output"},
    {"device"},
    {"returns", "losses", "distributions"},
    {"networks", "normalize", "optimizer", "rows", "checks", "flatten", "stack", "wrappers", "answers"} | {"report"},
    {"ddpg", "td3", "sac", "ppo", "replay", "building"},
    {"env_state", "registry", "workers", "checkpoint"},
    {"guard", "replay_file"},
    {"pool", "serial"},
    {"envs"},
    {"evaluate", "policy", "config", "training", "film"},
    {"runlog", "savepoints", "study"},
    {"session"},
    {"on_policy", "off_policy"},
    {"run"},
    {"flags"},
    {"cli"},
]
OUTSIDE = {  # What a floor may import from outside, beside the standard library; floors not named may import anything.
    floor: {"jax", "numpy", "chex"} for floor in (0, 1, 2)
}
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}


def imports(path: Path) -> set[str]:
    """Every module that the file imports, at whatever depth of its code, as a dotted name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} uses a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def faults(name: str, imported: set[str]) -> list[str]:
    """What is wrong with the imports of the module `name`."""
    floor, wrong = FLOOR_OF[name], []
    for each in imported:
        top, *inner = each.split(".")
        if top == "jaxrl":
            if not inner or inner[0] not in FLOOR_OF or FLOOR_OF[inner[0]] >= floor:
                wrong.append(f"{name} (floor {floor}) imports {each}")
        elif floor in OUTSIDE and top not in OUTSIDE[floor] | sys.stdlib_module_names:
            wrong.append(f"{name} (floor {floor}) imports {each}")
    return wrong


@pytest.mark.parametrize(
    "path", [path for path in PACKAGE.glob("*.py") if path.stem != "__init__"], ids=lambda p: p.stem
)
def test_imports_point_down(path):
    assert path.stem in FLOOR_OF, f"{path.name} has no floor: give it one"
    assert faults(path.stem, imports(path)) == []


def test_the_rule_catches_a_climb_a_sibling_and_a_stranger():
    assert faults("returns", {"jaxrl.ppo.PPOConfig"})
    assert faults("returns", {"jaxrl.losses.standardize"})
    assert faults("returns", {"flax.linen"})
    assert not faults("ppo", {"jaxrl.returns.gae", "flax.struct", "math"})


def test_experiments_use_the_public_face_only():
    for path in (PACKAGE.parent / "experiments").glob("*.py"):
        for each in imports(path):
            assert not any(part.startswith("_") for part in each.split(".") if part != "__future__"), f"{path}: {each}"


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_jaxrl_brings_in_nothing():
    assert not {"jax", "numpy", "flax", "gymnasium"} & loaded_after("import jaxrl")


def test_environment_workers_import_no_jax():
    loaded = loaded_after("import jaxrl.envs; jaxrl.envs.make_envs('Pendulum-v1', 2, 0).close()")
    assert "gymnasium" in loaded
    assert not {"jax", "flax", "optax", "chex"} & loaded


def test_training_imports_neither_scipy_nor_matplotlib():
    loaded = loaded_after("import jaxrl.cli, jaxrl.run, jaxrl.flags")
    assert "jax" in loaded
    assert not {"matplotlib", "scipy.stats", "torch", "tensorflow"} & loaded


def test_public_names_are_there():
    names = (
        "TD3Config TD3State td3_init td3_act td3_update SACConfig SACState sac_init sac_act sac_update "
        "Transition PPOConfig PPOState ppo_init ppo_act ppo_update DDPGConfig DDPGState ddpg_init ddpg_act ddpg_update "
        "Replay replay_init replay_add replay_sample gae td_target clipped_surrogate kl_divergence "
        "adapt_kl_coef RunConfig make_envs train load_policy"
    )
    for name in names.split():
        assert getattr(jaxrl, name).__name__ == name
        assert name in dir(jaxrl)
    with pytest.raises(AttributeError, match="no attribute 'ppo_updat'"):
        _ = jaxrl.ppo_updat

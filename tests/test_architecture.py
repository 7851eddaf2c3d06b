"""The house: which folder may import which, what importing costs, and the names that others rely on."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxrl

PACKAGE = Path(jaxrl.__file__).parent
ROOT = PACKAGE.parent

# A folder imports from folders above its own only, and from itself; of one line, never from each other. The modules
# that lie in no folder are the first line.
FOLDERS = [
    {""},
    {"ops"},
    {"data"},
    {"algos", "envs"},
    {"storage"},
    {"loggers"},
    {"runs"},
    {"training"},
    {"studies"},
    {"cli"},
]
LINE_OF = {name: number for number, names in enumerate(FOLDERS) for name in names}
FROM_OUTSIDE = {"ops": {"jax", "numpy", "chex"}}  # Beside the standard library; other folders may import anything.


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


def folder_of(module: str) -> str:
    """The folder that a dotted name under `jaxrl` lies in, "" where it is in none."""
    _, *inner = module.split(".")
    return inner[0] if inner and (PACKAGE / inner[0]).is_dir() else ""


def faults(module: str, imported: set[str]) -> list[str]:
    """The imports of `module` that the rule forbids."""
    folder, wrong = folder_of(module), []
    for each in imported:
        top = each.split(".")[0]
        if top == "jaxrl":
            other = folder_of(each)
            if other != folder and LINE_OF[other] >= LINE_OF[folder]:
                wrong.append(f"{module} imports {each}")
        elif folder in FROM_OUTSIDE and top not in FROM_OUTSIDE[folder] | sys.stdlib_module_names:
            wrong.append(f"{module} imports {each}")
    return wrong


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__init__.py"
    }


@pytest.mark.parametrize(("name", "path"), modules().items(), ids=modules())
def test_imports_point_up_the_list(name, path):
    assert folder_of(name) in LINE_OF, f"{path.parent} is in no line: give it one"
    assert faults(name, imports(path)) == []


def test_the_rule_catches_a_climb_a_neighbour_and_a_stranger():
    assert faults("jaxrl.ops.returns", {"jaxrl.algos.ppo.PPOConfig"})
    assert faults("jaxrl.envs.vector", {"jaxrl.algos.ppo.PPOConfig"})
    assert faults("jaxrl.ops.returns", {"flax.linen"})
    assert faults("jaxrl.errors", {"jaxrl.ops.returns.gae"})
    assert not faults("jaxrl.algos.ppo", {"jaxrl.ops.returns.gae", "jaxrl.errors.BadInput", "flax.struct", "math"})


@pytest.mark.parametrize("name", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_a_folder_itself_imports_nothing(name):
    assert imports(PACKAGE / name / "__init__.py") == set()


def test_no_module_imports_another_in_a_circle():
    known = modules()
    uses = {
        name: {other for each in imports(path) for other in known if each == other or each.startswith(f"{other}.")}
        for name, path in known.items()
    }
    while free := [name for name, used in uses.items() if not used]:
        uses = {name: used - set(free) for name, used in uses.items() if name not in free}
    assert not uses


# Private names of others that have no public one: NamedTuple's methods, the standard library's, JAX's, Gymnasium's.
FOREIGN = {"_replace", "_fields", "_asdict", "_exit", "_getframe", "_cache_size"}
FOREIGN |= {"_add_info", "_check_spaces", "_max_episode_steps"}
SOURCES = sorted(path for name in ("jaxrl", "experiments", "docs", "tests") for path in (ROOT / name).rglob("*.py"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_" and name not in FOREIGN


def private_touches(text: str) -> set[str]:
    """The private names of other modules that a file touches: by import, as an attribute, by `getattr`, or by patching.
    A private name that the file itself defines is its own."""
    nodes, own, touched = list(ast.walk(ast.parse(text))), set(), set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            own.add(node.attr)
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [part for alias in node.names for part in alias.name.split(".")]
            touched |= set(filter(is_private, [*names, *(getattr(node, "module", None) or "").split(".")]))
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            touched.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1].endswith(("attr", "patch", "object")):
            words = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            touched |= {part for word in words for part in word.split(".") if is_private(part)} - own
    return touched


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_no_file_touches_a_private_name_of_another(path):
    touched = private_touches(path.read_text())
    assert touched == set()


@pytest.mark.parametrize(
    "text",
    [
        "from jaxrl.device import _told",
        "import jaxrl._hidden",
        "from jaxrl._hidden import shown",
        "envs._ask('step')",
        "make_envs()._ask = None",
        "getattr(envs, '_ask')",
        "setattr(envs, '_ask', None)",
        "monkeypatch.setattr(device, '_told', None)",
        "monkeypatch.setattr('jaxrl.device._told', None)",
        "mock.patch('jaxrl.device._told')",
    ],
)
def test_the_rule_of_private_names_catches_each_way(text):
    assert private_touches(text)


def test_the_rule_of_private_names_leaves_ones_own_and_the_foreign_alone():
    own = "class A:\n def _f(self): self._x = 1\n def g(self, other): return other._f, other._x, self._y"
    for text in (own, "rows._replace(a=1)", "os._exit(0)", "import __future__", "_private = 1", "getattr(a, 'b')"):
        assert not private_touches(text)


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_jaxrl_brings_in_nothing():
    assert not {"jax", "numpy", "flax", "gymnasium"} & loaded_after("import jaxrl")


def test_environment_workers_import_no_jax():
    loaded = loaded_after("import jaxrl.envs.make; jaxrl.envs.make.make_envs('Pendulum-v1', 2, 0).close()")
    assert "gymnasium" in loaded
    assert not {"jax", "flax", "optax", "chex"} & loaded


def test_training_imports_neither_scipy_nor_matplotlib():
    loaded = loaded_after("import jaxrl.cli.main, jaxrl.training.train, jaxrl.cli.flags, jaxrl.studies.study")
    assert "jax" in loaded
    assert not {"matplotlib", "scipy.stats", "torch", "tensorflow"} & loaded


def test_public_names_are_there():
    names = (
        "TD3Config TD3State td3_init td3_act td3_update SACConfig SACState sac_init sac_act sac_update "
        "Transition PPOConfig PPOState ppo_init ppo_act ppo_update DDPGConfig DDPGState ddpg_init ddpg_act ddpg_update "
        "Replay replay_init replay_add replay_sample gae td_target clipped_surrogate kl_divergence "
        "Categorical MultiCategorical DiagGaussian TanhGaussian Deterministic "
        "adapt_kl_coef RunConfig make_envs train load_policy Algorithm OnPolicySettings OffPolicySettings register "
        "Logger DeviceEnvs make_device_envs behaviour_policy collect evaluate_on_device "
        "RLOOConfig RLOOState rloo_init rloo_update check_completions Completions leave_one_out sample_completions"
    )
    for name in names.split():
        assert getattr(jaxrl, name).__name__ == name
        assert name in dir(jaxrl)
    with pytest.raises(AttributeError, match="no attribute 'ppo_updat'"):
        _ = jaxrl.ppo_updat


def test_type_checkers_and_stars_get_every_public_name():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    lazy = {name for name in dir(jaxrl) if hasattr(getattr(jaxrl, name), "__module__") and not name.startswith("_")}
    assert imported == set(jaxrl.__all__) == lazy - {"Any"}

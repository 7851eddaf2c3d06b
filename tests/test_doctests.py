"""The examples in docstrings run, and give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import jaxrl

PACKAGE = Path(jaxrl.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)


def examples(name):
    module = importlib.import_module(name)
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name):
    path = PACKAGE.parent / Path(*name.split(".")).with_suffix(".py")
    assert sum(len(test.examples) for test in examples(name)) == path.read_text().count(">>> "), "some are not found"
    for test in examples(name):
        said = []
        result = doctest.DocTestRunner().run(test, out=said.append)
        assert result.attempted and not result.failed, "".join(said)


def test_the_main_formulas_have_examples():
    found = {test.name.removeprefix(f"{name}.") for name in MODULES for test in examples(name)}
    assert {"gae", "td_target", "clipped_surrogate", "adapt_kl_coef", "kl_divergence", "Categorical"} <= found


def test_a_wrong_example_is_caught():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner().run(test, out=lambda text: None).failed

"""The site: every public name is in it and says what it is, it builds without a warning, and no link is broken."""

import dataclasses
import importlib
import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import jaxrl

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs" / "tools"))

from pages import ELSEWHERE, to_rst, to_site  # noqa: E402


def undocumented(found, name):
    """What of a class or function has no docstring of its own: the thing itself, and a class's public methods."""
    text = found.__doc__ or ""
    made_of_fields = text.startswith(f"{name}(")  # Dataclasses and tuples make themselves one.
    missing = [] if text and not made_of_fields else [name]
    for member, value in vars(found).items() if inspect.isclass(found) else ():
        by_hand = isinstance(value, property | classmethod) or inspect.isfunction(inspect.unwrap(value))
        generated = member == "replace" and dataclasses.is_dataclass(found)
        if by_hand and not member.startswith("_") and not generated and not inspect.getdoc(getattr(found, member)):
            missing.append(f"{name}.{member}")
    return missing


def test_every_public_name_has_a_docstring():
    assert [missing for name in jaxrl.__all__ for missing in undocumented(getattr(jaxrl, name), name)] == []


def test_a_name_without_a_docstring_would_be_found():
    @dataclasses.dataclass
    class Bare:
        number: int = 0

        def method(self):
            return self.number

    assert undocumented(Bare, "Bare") == ["Bare", "Bare.method"]


def test_the_reference_has_every_public_name_once():
    pages = "".join(path.read_text() for path in sorted((ROOT / "docs" / "api").glob("*.md")))
    assert sorted(re.findall(r"^\.\. auto\w+:: jaxrl\.(\w+)$", pages, re.M)) == sorted(jaxrl.__all__)


def test_the_front_page_shows_what_the_readme_shows():
    """The README's blocks are run by its own tests."""
    page = (ROOT / "docs" / "index.md").read_text()
    blocks = re.findall(r"^```(?:python)?\n(.*?)^```$", page.split("```{toctree}")[0], re.S | re.M)
    assert len(blocks) == 2
    assert all(block in (ROOT / "README.md").read_text() for block in blocks)


def test_docstrings_become_what_sphinx_reads():
    docstring = """\
One line, of `a|b` * c.
`x = 1`
`y = 2`

What happens:
- First, which goes
  on.
- Second.
Then an end.

Args:
  old, new: `(N,)`, both
    alike.
  **more: others.

Returns:
  Two: a thing, `it`s length.

Raises:
  BadInput: no.

Example, of one:
  >>> f(`a`)
  `b|c`

Source: nobody."""
    expected = """\
One line, of ``a|b`` \\* c.
``x = 1``

``y = 2``

What happens:

- First, which goes
  on.
- Second.

Then an end.


:param old: ``(N,)``, both
    alike.
:param new: ``(N,)``, both
    alike.
:param \\*\\*more: others.


:returns:
  Two: a thing, ``it``\\ s length.


:raises BadInput: no.


Example, of one:

  >>> f(`a`)
  `b|c`

Source: nobody."""
    assert "\n".join(to_rst(docstring.split("\n"))) == expected


def test_links_out_of_the_pages_lead_into_the_site():
    others = "![c](../plots/ppo.png) [d](guide.md)"
    text = f"[a](../experiments/results) [b](../experiments/notebooks/cartpole.ipynb) {others}"
    assert to_site(text, "index") == f"a [b](notebooks/cartpole.ipynb) {others}"
    assert "(../notebooks/cartpole.ipynb)" in to_site(text, "api/runs")


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_link_to_another_project_leads_to_what_it_names(name):
    url = urlsplit(ELSEWHERE[name])
    assert url.scheme == "https" and url.fragment.rpartition(".")[2] == name.rpartition(".")[2]
    package, *parts = url.fragment.split(".")
    found = importlib.import_module(package)
    for part in parts:
        found = getattr(found, part) if hasattr(found, part) else importlib.import_module(f"{found.__name__}.{part}")


class Page(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.add(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def html(folder):
    """The pages of a site, without the theme's templates."""
    return sorted(path for path in folder.rglob("*.html") if "_static" not in path.relative_to(folder).parts)


def broken_links(folder):
    """Every link within a site that leads nowhere."""
    pages = {path: Page(path.read_text()) for path in html(folder)}
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto", "data"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                yield f"{path.relative_to(folder)}: {link}"


def test_a_broken_link_would_be_found(tmp_path):
    links = '<a id="x" href="b.html#y"></a><a href="a.html#x"></a><a href="#z"></a><img src="c.png">'
    (tmp_path / "a.html").write_text(links)
    (tmp_path / "b.html").write_text('<p id="w"><a href="https://example.org"></a>')
    assert sorted(broken_links(tmp_path)) == ["a.html: #z", "a.html: b.html#y", "a.html: c.png"]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_no_link_is_broken(tmp_path):
    pytest.importorskip("myst_nb", reason="pip install -e '.[docs]'")
    out = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(out)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert list(broken_links(out)) == []
    pages = {path.relative_to(out): path.read_text() for path in html(out)}
    reference = "".join(text for path, text in pages.items() if path.parent.name == "api")
    assert [name for name in jaxrl.__all__ if f'id="jaxrl.{name}"' not in reference] == []
    for notebook in (ROOT / "experiments" / "notebooks").glob("*.ipynb"):
        assert Path("notebooks", f"{notebook.stem}.html") in pages
    assert [url for url in ELSEWHERE.values() if f'href="{url}"' not in "".join(pages.values())] == []
    fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', "".join(pages.values()))
    assert fetched == []  # The pages bring all that they show.

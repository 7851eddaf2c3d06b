"""What Sphinx needs to know of our pages: docstrings in our own style, links out of `docs` and to the pages of other
projects, equations without scripts.

`docs/conf.py` names it as an extension. Neither the build nor the pages that come out
read the network.
"""

import dataclasses
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FIELDS = {"Args:": "param", "Attributes:": "ivar", "Raises:": "raises"}
ENTRY = re.compile(r"  ((?:[*\w]+, )*[*\w]+): (.*)")
EQUATION = re.compile(r"([A-Z][^`.]*: )?`[^`]+`(,.*)?")  # On a line of its own.
CODE = re.compile(r"(`[^`]+`)")
DOCTEST = re.compile(r"^ *>>> .*(?:\n *\S.*)*", re.M)
ARRAY_LIKE = re.compile(r"[~.\w]*Array \| [~.\w]*ndarray \| (?:[~.\w]+ \| )*complex")
# What the converter does not know, or sets too close, and what means the same.
UNKNOWN = {
    r"\\big(?=[(\[])": r"\\bigl",
    r"\\big(?=[)\]])": r"\\bigr",
    r"\\frac(\d)(\d)": r"\\frac{\1}{\2}",
    r"\\log\b": r"\\log\\,",
}
ELSEWHERE = {
    name: url + place
    for url, places in tomllib.loads((ROOT / "docs/tools/elsewhere.toml").read_text()).items()
    for name, place in places.items()
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./([^)#]+)\)")


def to_rst(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText.

    Args:
      lines: without the indentation that all share; `Args:`, `Attributes:`, `Raises:` and `Returns:` each head a
        section, and single backticks mean code.

    Returns:
      Its lines: a field for each name of a section, double backticks, and blank lines around lists and examples.
    """
    return _code(_spaced(_fields(lines)))


def _fields(lines: list[str]) -> list[str]:
    """Sections become fields. Names that share a text get a field each."""
    found: list[str] = []
    entry: list[str] = []  # That of a section, where we are in one: its names, and the lines of its text.
    section = ""

    def close() -> None:
        for name in entry[:1] and entry[0].split(", "):
            found.extend([f":{FIELDS[section]} {name}: {entry[1]}", *entry[2:]])
        entry.clear()

    for line in lines:
        match = ENTRY.fullmatch(line) if section in FIELDS else None
        begins = line in FIELDS or line == "Returns:"
        ends = bool(section and line) and not line.startswith(" ")
        if match or begins or ends:
            close()
        if begins:
            section = line
            found += ["", ":returns:"] if line == "Returns:" else [""]
        elif match:
            entry += match.groups()
        elif ends:
            section = ""
            found += ["", line]
        else:
            (entry or found).append(line)
    close()
    return found


def _spaced(lines: list[str]) -> list[str]:
    """A list, an example, or a second equation needs no blank line before it in our docstrings."""
    found: list[str] = []
    item = -1  # The indentation of the list that we are in.
    for line in lines:
        text = line.lstrip()
        indent = len(line) - len(text)
        begins_list = text.startswith("- ") and indent != item
        begins_example = text.startswith(">>> ") and bool(found) and not found[-1].lstrip().startswith(">>> ")
        ends_list = item >= 0 and bool(text) and indent <= item and not text.startswith("- ")
        equation_follows = bool(found) and bool(EQUATION.fullmatch(found[-1]) and re.match("[`A-Z]", line))
        if begins_list or begins_example or ends_list or equation_follows:
            found.append("")
        if text:
            item = indent if text.startswith("- ") else -1 if ends_list else item
        found.append(line)
    return found


def _code(lines: list[str]) -> list[str]:
    """Backticks doubled, and what would be markup outside of them made plain. Examples stay as they are."""
    text, found, end = "\n".join(lines), "", 0
    for example in DOCTEST.finditer(text):
        found += _literal(text[end : example.start()]) + example[0]
        end = example.end()
    return (found + _literal(text[end:])).split("\n")


def _literal(text: str) -> str:
    parts = CODE.split(text)
    parts[::2] = [re.sub(r"([*|\\]|(?<=\w)_(?!\w)|(?<=: \w)\.)", r"\\\1", part) for part in parts[::2]]
    parts[2::2] = [re.sub(r"^(?=\w)", r"\\ ", part) for part in parts[2::2]]  # No word may follow a literal.
    parts[1::2] = [f"`{part}`" for part in parts[1::2]]
    return "".join(parts)


def to_site(text: str, page: str) -> str:
    """A page's links to files outside of `docs`, which the site does not have.

    Args:
      text: the page, Markdown.
      page: its name in the site, such as `api/kernels`.

    Returns:
      The page: a notebook's link leads to its page; a folder's is its text alone. Other files are downloads, and
      pictures are copied; Sphinx does both by itself.
    """

    def link(match: re.Match[str]) -> str:
        path = ROOT / match[2]
        if path.suffix == ".ipynb":
            return f"[{match[1]}]({'../' * page.count('/')}notebooks/{path.name})"
        return match[1] if path.is_dir() else match[0]

    return LINK.sub(link, text)


def copy_notebooks(folder: Path) -> None:
    """Brings the notebooks into `docs`, where Sphinx looks for pages; git ignores them there."""
    folder.mkdir(exist_ok=True)
    for path in sorted((ROOT / "experiments/notebooks").glob("*.ipynb")):
        copy = folder / path.name
        if not copy.exists() or copy.read_bytes() != path.read_bytes():
            shutil.copyfile(path, copy)


def to_mathml(tex: str, *, as_block: bool) -> str:
    """An equation as MathML, which browsers draw without a script."""
    from docutils.utils.math.latex2mathml import tex2mathml

    for pattern, plainer in UNKNOWN.items():
        tex = re.sub(pattern, plainer, tex)
    return str(tex2mathml(tex, as_block=as_block)).replace("'", "\N{PRIME}")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    from docutils import nodes
    from docutils.utils.math import MathError
    from sphinx.util import logging

    def docstring(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
        lines[:] = to_rst(lines)

    def signature(_app: Any, what: str, _name: str, found: Any, _options: Any, text: Any, returns: Any) -> Any:
        if what == "class" and dataclasses.is_dataclass(found):
            return "", None  # Its fields are listed below it, with their defaults.
        return text and ARRAY_LIKE.sub("ArrayLike", text), returns

    def skip(_app: Any, _what: str, name: str, found: Any, _skip: bool, _options: Any) -> bool | None:
        written_by_flax = name == "replace" or "_tuplegetter" in type(found).__name__
        return True if written_by_flax else None

    def page(_app: Any, name: str, content: list[str]) -> None:
        content[0] = to_site(content[0], name)

    def elsewhere(name: str, text: Any) -> Any:
        return nodes.reference("", "", text, refuri=ELSEWHERE[name], internal=False, classes=["reference", "external"])

    def reference(_app: Any, _env: Any, node: Any, text: Any) -> Any:
        """A type in a signature that is another project's."""
        name = node.get("reftarget")
        return elsewhere(name, text) if name in ELSEWHERE else None

    def code(_app: Any, document: Any) -> None:
        """The name of another project's object in a text."""
        for literal in list(document.findall(nodes.literal)):
            if literal.astext() in ELSEWHERE and not isinstance(literal.parent, nodes.reference):
                literal.replace_self(elsewhere(literal.astext(), literal.deepcopy()))

    def equation(writer: Any, node: Any) -> None:
        try:
            writer.body.append(to_mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
        except MathError as error:
            logging.getLogger(__name__).warning("%s: %s", node.astext(), error, location=node)
        raise nodes.SkipNode

    copy_notebooks(Path(app.srcdir) / "notebooks")
    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
    app.connect("source-read", page)
    app.connect("missing-reference", reference)
    app.connect("doctree-read", code)
    app.add_html_math_renderer("mathml", (equation, None), (equation, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""How the site is built: `sphinx-build -W -b html docs docs/_build`, after `pip install -e '.[docs]'`."""

import sys
from pathlib import Path

import jaxrl

sys.path.insert(0, str(Path(__file__).parent / "tools"))

project = "jaxrl"
author = "the authors of jaxrl"
version = release = jaxrl.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "pages"]
exclude_patterns = ["_build"]
smartquotes_action = "D"  # Dashes alone: quotes in our text are those of Python.
highlight_language = "text"  # Of blocks that name none: command lines.
toc_object_entries_show_parents = "hide"
html_theme = "sphinx_book_theme"
html_title = f"jaxrl {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],
    "home_page_in_toc": True,
}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # They are committed with what they showed.
nb_merge_streams = True

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

"""The course site: `make site` makes it, without a network, in build/site.

The source folder is the repository itself, so that a link which works on GitHub works here too:
pages are docs/, the executed notebooks and exercises as they are committed, and a few files beside
them. _ext/ holds what Sphinx and MyST-NB don't do: links.py, notebooks.py, api.py.
"""

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "_ext"))

from minimtnlg.course.pages import repository  # noqa: E402

project = "minimtnlg"
author = "the authors of minimtnlg"
project_copyright = "the authors of minimtnlg, Apache-2.0"
release = metadata.version("minimtnlg")
language = "en"

# ------------------------------------------------------------------------------------------ pages

root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "notebooks/*.ipynb",
    "exercises/*.ipynb",
    "exercises/README.md",
    "scaling/configs/README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
]
exclude_patterns = [".*", "build", "corpora", "minimtnlg", "runs", "tests", "work"]

# The menu: a heading and its pages, without suffix, from the root; patterns are sorted. A page of
# docs/ that no line names comes under the last heading, so nothing that is written is left out.
MENU = {
    "Learn": ["notebooks/*", "exercises/README", "docs/glossary"],
    "Teach": ["docs/teaching/index", "docs/grading", "docs/writing-lessons"],
    "Use": ["docs/use", "scaling/configs/README", "docs/planning", "docs/corpus", "docs/engines",
            "docs/checkpoints", "docs/evaluation", "docs/bias", "docs/small", "docs/gpu"],
    "Proof": ["docs/proven", "docs/speed", "docs/paper-map", "docs/equivalence", "docs/drills"],
    "Reference": ["docs/api/index", "docs/bibliography", "docs/*", "CONTRIBUTING", "SECURITY",
                  "CHANGELOG"],
}  # fmt: skip
# Pages below a page, which GitHub shows without them: the page that has them, and patterns.
PACKAGES = "minimtnlg data parallel model train plan evaluate engines course".split()
BELOW = {
    "exercises/README": ["exercises/*"],
    "docs/teaching/index": ["docs/teaching/*", "docs/teaching/lessons/*"],
    "docs/api/index": [f"docs/api/{name}" for name in PACKAGES],
}

# -------------------------------------------------------------------------------------- notebooks

extensions = ["myst_nb", "sphinx.ext.mathjax", "links", "notebooks", "api"]
myst_enable_extensions = ["dollarmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 4
nb_execution_mode = "off"  # they are committed executed
nb_merge_streams = True
nb_ipywidgets_js = {}  # no script from elsewhere
suppress_warnings = ["config.cache"]  # values of this file that can't be compared between builds

# ------------------------------------------------------------------------------------------- HTML

html_theme = "sphinx_book_theme"
html_title = "minimtnlg"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sourcelink = False
html_additional_pages = {"index": "to_start.html"}
add_module_names = False
smartquotes = False  # code is quoted in prose
toc_object_entries = False  # modules in the margin of an API page, not each function
templates_path = ["_templates"]
html_context = {"default_mode": "auto"}  # else a first visit is told of an invalid mode
html_theme_options = {
    "repository_url": repository(ROOT),
    "repository_branch": "main",
    "use_repository_button": True,
    "use_download_button": False,
    "launch_buttons": {
        "colab_url": "https://colab.research.google.com",
        "binderhub_url": "https://mybinder.org",
        "notebook_interface": "jupyterlab",
    },
    "show_navbar_depth": 1,
    "max_navbar_depth": 2,
    "collapse_navbar": True,  # the menu opens where one is; half of the time to build, otherwise
    "show_toc_level": 2,
    "navbar_persistent": [],  # the menu has the search
}

# MathJax is one file of a Python package; it fetches nothing.
(mathjax,) = (f for f in metadata.files("sphinx-mathjax-offline") if f.name == "tex-svg.js")
html_static_path.append(str(mathjax.locate()))
mathjax_path = "tex-svg.js"

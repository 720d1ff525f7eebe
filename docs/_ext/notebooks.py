"""Notebooks on the site: measurements are folded, figures keep their texts, and where to run them.

- The output of a cell tagged `predict` is folded, so that a guess comes first; so is the set-up.
- The alternative text of a figure, which lies in the output's metadata, reaches the page.
- Codespaces joins the theme's buttons for Colab and Binder.
"""

import json
import re
from pathlib import Path

import links
from docutils import nodes

GUESS = {"code_prompt_show": "Guess first, then open", "code_prompt_hide": "Fold again"}
SETUP = {"code_prompt_show": "Set-up, the same in every notebook", "code_prompt_hide": "Fold again"}


def on_source(app, docname, source):
    """Tag the cells that are folded; make links lead somewhere."""
    if Path(app.env.doc2path(docname)).suffix != ".ipynb":
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        metadata = cell["metadata"]
        if cell["cell_type"] == "markdown":
            cell["source"] = links.to_repository(app, docname, text)
        elif text.startswith("# Set-up"):
            metadata |= {"tags": ["hide-input"], "mystnb": SETUP}
        elif "predict" in metadata.get("tags", []):
            metadata |= {"tags": ["hide-output"], "mystnb": GUESS}
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data:
                text = links.to_repository(app, docname, "".join(data["text/markdown"]))
                # MyST-NB renders outputs by themselves, so it knows no other page here.
                data["text/markdown"] = re.sub(r"(?<=\.)ipynb(?=\))", "html", text)
    source[0] = json.dumps(notebook)


def on_doctree(app, doctree):
    """Give each image of a cell's output the alternative text of its metadata."""
    cells = [
        cell
        for cell in doctree.findall(nodes.container)
        if cell.get("nb_element") == "cell_code" and any(cell.findall(nodes.image))
    ]
    if not cells:
        return
    path = app.env.doc2path(app.env.docname)
    notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    for cell in cells:
        alts = [
            form["alt"]
            for output in notebook["cells"][cell["cell_index"]]["outputs"]
            for form in output.get("metadata", {}).values()
            if "alt" in form
        ]
        for image, alt in zip(cell.findall(nodes.image), alts, strict=True):
            image["alt"] = alt


def on_page(app, pagename, templatename, context, doctree):
    """Add Codespaces to the buttons that start a notebook elsewhere."""
    address = app.config.html_theme_options["repository_url"]
    for group in context.get("header_buttons", []):
        if group.get("label") == "launch-buttons":
            group["buttons"].append(
                {
                    "type": "link",
                    "text": "Codespaces",
                    "tooltip": "Open the course on GitHub Codespaces",
                    "icon": "fab fa-github",
                    "url": address.replace("https://github.com", "https://codespaces.new"),
                }
            )


def setup(app):
    """What Sphinx calls."""
    app.connect("source-read", on_source)
    app.connect("doctree-read", on_doctree)
    app.connect("html-page-context", on_page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

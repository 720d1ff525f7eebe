"""Links that work on GitHub work on the site; the menu; sources are linked where they are cited.

- A link to a file or folder that is no page of the site leads to the repository on the web.
- `[S12, eq. 2]` links to the bibliography, whose entries get anchors.
- conf.MENU and conf.BELOW are added to their pages as tables of contents, and the course map, made
  from the lessons' front matter, to the first page.
"""

import re
from fnmatch import fnmatch
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.transforms import SphinxTransform

from minimtnlg.course.pages import course_map_table

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
CITED = re.compile(r"\bS\d+\b")
BRACKET = re.compile(r"\[[^\[\]]*\bS\d+\b[^\[\]]*\]")


def to_repository(app, docname, text):
    """`text` with its relative links to what is no page made links to the repository."""
    root = Path(app.srcdir)
    here = Path(app.env.doc2path(docname)).parent
    branch = app.config.html_theme_options["repository_branch"]
    address = app.config.html_theme_options["repository_url"]

    def found(match):
        path = (here / match[1]).resolve()
        page = app.env.path2doc(path) if path.is_file() else None
        if path.suffix == ".svg":  # a picture, not a link: it becomes part of the site
            return match[0]
        if not path.exists() or not path.is_relative_to(root) or page in app.env.found_docs:
            return match[0]  # a page, or wrong: then MyST says so
        kind = "blob" if path.is_file() else "tree"
        return f"{address}/{kind}/{branch}/{path.relative_to(root).as_posix()}{match[2] or ''}"

    return LINK.sub(found, text)


def contents(app, docname):
    """The tables of contents that belong to a page, as MyST."""
    menu, below = app.config.MENU, app.config.BELOW
    pages = sorted(app.env.found_docs)
    named = {page for patterns in menu.values() for page in patterns}
    named |= {app.config.root_doc, *(p for p in pages for b in below.values() if _fits(p, b))}

    def tree(patterns, caption=""):
        chosen = []
        for pattern in patterns:
            chosen += [
                page
                for page in pages
                if _fits(page, [pattern])
                and page not in (*chosen, docname)
                and (page == pattern or page not in named or patterns is below.get(docname))
            ]
        lines = "\n".join("/" + page for page in chosen)
        return f"\n\n```{{toctree}}\n:hidden:\n{caption}\n{lines}\n```\n" if chosen else ""

    if docname == app.config.root_doc:
        return "".join(tree(found, f":caption: {name}\n") for name, found in menu.items())
    return tree(below[docname]) if docname in below else ""


def _fits(page, patterns):
    """Whether the page lies directly in the folder of a pattern and fits it."""
    return any(fnmatch(page, p) and page.count("/") == p.count("/") for p in patterns)


def on_source(app, docname, source):
    """Change the text of a Markdown page before it is read."""
    if Path(app.env.doc2path(docname)).suffix != ".md":
        return
    text = to_repository(app, docname, source[0])
    if docname == "docs/bibliography":
        text = re.sub(r"^\*\*(S\d+)\.\*\*", r"(\1)=\n\g<0>", text, flags=re.MULTILINE)
    if docname == app.config.root_doc:
        table = course_map_table(app.srcdir, "../notebooks/", "../exercises/")
        text = text.replace("<!-- course map -->", table)
    source[0] = text + contents(app, docname)


class Citations(SphinxTransform):
    """Each id in `[S12, eq. 2]` becomes a link; one that the bibliography lacks is a warning."""

    default_priority = 500
    inside = (nodes.literal, nodes.literal_block, nodes.reference, nodes.title, nodes.math)

    def apply(self):
        if self.env.docname == "docs/bibliography":
            return
        for text in list(self.document.findall(nodes.Text)):
            if not BRACKET.search(text) or self._covered(text):
                continue
            parts, end = [], 0
            for bracket in BRACKET.finditer(text):
                for cited in CITED.finditer(text, bracket.start(), bracket.end()):
                    parts += [nodes.Text(text[end : cited.start()]), self._link(cited[0])]
                    end = cited.end()
            text.parent.replace(text, [*parts, nodes.Text(text[end:])])

    def _covered(self, node):
        while node := node.parent:
            if isinstance(node, self.inside):
                return True
        return False

    def _link(self, name):
        where = dict(refdomain="std", reftype="ref", reftarget=name.lower(), refexplicit=True)
        return pending_xref("", nodes.inline("", name), refdoc=self.env.docname, **where)


def setup(app):
    """What Sphinx calls."""
    app.add_config_value("MENU", {}, "env")
    app.add_config_value("BELOW", {}, "env")
    app.connect("source-read", on_source)
    app.add_transform(Citations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

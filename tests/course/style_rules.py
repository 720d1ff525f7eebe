"""What the source of a figure may not say: a style of its own, colours that are not the course's.

The course's colours are those of plots.COLOURS, called by their names; black, white and greys; and
tints, a colour of the course mixed with white.
"""

import ast
import re

from figure_rules import SMALLEST

from minimtnlg.course.plots import COLOURS

COLOUR = r"c|color|colors|facecolor|edgecolor|ecolor|mfc|mec|fc|ec|markerfacecolor|markeredgecolor"
MAPS = {"Greys", "gray", "viridis", "cividis"}  # lightness rises evenly in each
SIZES = {"fontsize", "labelsize", "titlesize"}
NEUTRAL = {"black", "white", "none", "grey", "gray", "k", "w", ""}


def breaches(source):
    """Sentences about what a piece of code breaks."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("rcParams", "rc_context", "style"):
            found.append(f"line {node.lineno}: {node.attr}; the one style is in plots.py")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"#[0-9a-fA-F]{6}", node.value) and not _of_the_course(node.value):
                found.append(f"line {node.lineno}: {node.value} is no colour of plots.COLOURS")
            if re.fullmatch(r"(?:tab|xkcd):.+|C\d|[rgbcmy](?:--?|-?\.|:|o|\^)", node.value):
                found.append(f"line {node.lineno}: {node.value!r}; take a colour of plots.COLOURS")
        if isinstance(node, ast.keyword):
            found += _of_keyword(node)
    return found


def _of_keyword(node):
    place = f"line {node.value.lineno}: {node.arg}="
    value = getattr(node.value, "value", None) if isinstance(node.value, ast.Constant) else None
    if node.arg == "cmap" and value not in MAPS:
        return [f"{place}{value!r}; its lightness has to rise evenly: {', '.join(sorted(MAPS))}"]
    if node.arg in SIZES and isinstance(value, int | float) and value < SMALLEST:
        return [f"{place}{value}; letters have {SMALLEST} points or more"]
    if re.fullmatch(COLOUR, node.arg or "") and isinstance(value, str):
        if value[:1] != "#" and value not in NEUTRAL and not re.fullmatch(r"0?\.\d+|[01]", value):
            return [f"{place}{value!r}; take a colour of plots.COLOURS"]
    return []


def _of_the_course(colour):
    """Whether it is a tint of a colour of the course; one that is there goes by its name."""
    mine = _rgb(colour)
    for full in map(_rgb, COLOURS.values()):
        for percent in range(1, 97):
            tint = [255 + percent / 100 * (f - 255) for f in full]
            if max(abs(t - c) for t, c in zip(tint, mine, strict=True)) <= 4:
                return True
    return False


def _rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]

"""What can be measured of a figure that matplotlib wrote as SVG, as sentences about faults.

Sizes are points on the page. Colours are compared by lightness, L* from 0 to 100, so that whoever
sees no hues, and a printer that has none, tells apart what the legend names.
"""

import re
import xml.etree.ElementTree as ElementTree

SMALLEST = 8  # points of a letter
WIDEST = 720  # points of a figure: the 960 pixels that the site's text column has at most
CONTRAST = 4.5  # of text on what lies below it, WCAG 2.2, level AA
APART = 15  # in L*, where neither dash, marker nor hatch differ
SVG = "{http://www.w3.org/2000/svg}"
PLACE = r"translate\(([-\d.]+) ([-\d.]+)\)(.*)scale\(([\d.]+) "  # of a text
LINK = "{http://www.w3.org/1999/xlink}href"


def faults(svg):
    """Sentences about what is hard to see in one figure."""
    root = ElementTree.fromstring(svg)
    width = float(root.get("width").removesuffix("pt"))
    found = [f"it is {width:.0f} points wide"] if width > WIDEST else []
    return found + _letters(root) + _legends(root)


def words(svg):
    """The texts of a figure: matplotlib leaves each in a comment beside its outlines."""
    return [" ".join(text.split()) for text in re.findall(r"(?s)<!--(.*?)-->", svg)]


def lightness(colour):
    """L* of a colour #rrggbb."""
    y = _luminance(colour)
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def contrast(one, other):
    """The ratio of WCAG, 1 to 21, of two colours #rrggbb."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _letters(root):
    """Text that is too small, or too like what was painted below it before."""
    hatches, clips, painted, found = _hatches(root), _clips(root), [], []
    for group in root.iter(f"{SVG}g"):
        name = group.get("id", "")
        if name.startswith("patch_"):
            painted += _areas(group, hatches, clips)
        elif name.startswith("text_"):
            for part in group:
                place = re.search(PLACE, part.get("transform", ""))
                if part.tag == f"{SVG}g" and part.get("id", "").startswith("patch_"):
                    painted += _areas(part, hatches, clips)
                if part.tag != f"{SVG}g" or not place:
                    continue
                x, y, size = float(place[1]), float(place[2]), 100 * float(place[4])
                if size < SMALLEST - 0.01:
                    found.append(f"{name} has letters of {size:.1f} points")
                if not place[3].strip():  # not turned: its middle is easily found
                    wide = max([0.0, *_offsets(part)]) + 60
                    under = _below(painted, x + wide * size / 200, y - 0.36 * size)
                    ink = _style(part).get("fill", "#000000")
                    if ink.startswith("#") and contrast(ink, under) < CONTRAST:
                        ratio = contrast(ink, under)
                        found.append(f"{name}, {ink} on {under}, has a contrast of {ratio:.1f}")
    return found


def _legends(root):
    """Pairs of a legend's entries that differ in hue alone."""
    hatches = _hatches(root)
    shapes = {path.get("id"): path.get("d") for path in root.iter(f"{SVG}path") if path.get("id")}
    found = []
    for legend in root.iter(f"{SVG}g"):
        if not legend.get("id", "").startswith("legend_"):
            continue
        entries, parts = [], []
        for child in legend:
            if child.get("id", "").startswith("text_"):
                if parts:
                    entries.append((child.get("id"), *_look(parts, hatches, shapes)))
                parts = []
            else:
                parts.append(child)
        for i, (one, colour, form) in enumerate(entries):
            for other, its_colour, its_form in entries[i + 1 :]:
                apart = abs(lightness(colour) - lightness(its_colour))
                if form == its_form and apart < APART:
                    found.append(f"{one} and {other} of a legend differ by {apart:.0f} of L* alone")
    return found


def _look(parts, hatches, shapes):
    """(colour, form) of an entry; equal forms leave only the colour to tell them apart."""
    colours, form = [], []
    for part in parts:
        for node in part.iter():
            style, kind = _style(node), part.get("id", "").split("_")[0]
            if node.tag == f"{SVG}path" and not node.get("id"):
                fill = style.get("fill", "#000000")
                hatch = hatches.get(fill)
                fill = hatch[0] if hatch else fill
                colours += [_over("#ffffff", fill, _alpha(style)), style.get("stroke", "none")]
                form += [kind, fill == "none", style.get("stroke-dasharray"), hatch and hatch[1]]
            elif node.tag == f"{SVG}use":
                colours += [style.get("fill", "none"), style.get("stroke", "none")]
                form.append(shapes.get(node.get(LINK, "")[1:]))
    return next((c for c in colours if c.startswith("#")), "#000000"), form


def _hatches(root):
    """{fill: (colour of the area, its lines)} of the patterns."""
    found = {}
    for pattern in root.iter(f"{SVG}pattern"):
        area, lines = pattern.find(f"{SVG}rect"), pattern.find(f"{SVG}path")
        colour = area.get("fill", "none") if area is not None else "none"
        found[f"url(#{pattern.get('id')})"] = colour, lines.get("d") if lines is not None else ""
    return found


def _clips(root):
    """{clip-path: (left, top, right, bottom)}."""
    found = {}
    for clip in root.iter(f"{SVG}clipPath"):
        for rect in clip.iter(f"{SVG}rect"):
            x, y, width, height = (float(rect.get(k)) for k in ("x", "y", "width", "height"))
            found[f"url(#{clip.get('id')})"] = x, y, x + width, y + height
    return found


def _areas(group, hatches, clips):
    """(left, top, right, bottom, colour, opacity) of what a patch fills."""
    found = []
    for path in group.iter(f"{SVG}path"):
        style = _style(path)
        fill = style.get("fill", "#000000")
        fill = hatches[fill][0] if fill in hatches else fill
        numbers = [float(n) for n in re.findall(r"-?[\d.]+(?:e-?\d+)?", path.get("d", ""))]
        if fill.startswith("#") and numbers:
            x, y = numbers[::2], numbers[1::2]
            left, top, right, bottom = clips.get(path.get("clip-path"), (-1e9, -1e9, 1e9, 1e9))
            found.append((max(min(x), left), max(min(y), top), min(max(x), right),
                          min(max(y), bottom), fill, _alpha(style)))  # fmt: skip
    return found


def _below(painted, x, y):
    """The colour at a point, from what was painted so far."""
    colour = "#ffffff"
    for left, top, right, bottom, fill, alpha in painted:
        if left <= x <= right and top <= y <= bottom:
            colour = _over(colour, fill, alpha)
    return colour


def _over(below, colour, alpha):
    """What one sees of `colour` on `below`; "none" stays."""
    if colour == "none":
        return colour
    both = zip(_rgb(below), _rgb(colour), strict=True)
    return "#" + "".join(f"{round(255 * (b * (1 - alpha) + c * alpha)):02x}" for b, c in both)


def _alpha(style):
    return float(style.get("fill-opacity", style.get("opacity", 1)))


def _offsets(text):
    return [float(x) for use in text.iter(f"{SVG}use")
            for x in re.findall(r"translate\(([-\d.]+)", use.get("transform", ""))]  # fmt: skip


def _style(node):
    pairs = (part.split(":", 1) for part in node.get("style", "").split(";") if ":" in part)
    return {key.strip(): value.strip() for key, value in pairs}


def _rgb(colour):
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def _luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _rgb(colour)]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

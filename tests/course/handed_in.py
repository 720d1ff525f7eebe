"""Submissions that tests hand in: notebooks of a few cells."""

import json

from minimtnlg.course import drawn, pages
from minimtnlg.course.sources import tags


def notebook(*cells):
    """The text of a notebook of these code cells."""
    empty = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    listed = [empty | {"source": code} for code in cells]
    whole = {"cells": listed, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole)


def given(source):
    """The code that a student's notebook holds before any work: numbers drawn, what is given."""
    values = drawn.values(source)
    numbers = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    cells = [c for c in source.cells if c.cell_type == "code" and not tags(c)]
    return [numbers, *(drawn.fill(cell.source, values) for cell in cells)]


def solution(source):
    """Its solution's cells."""
    values = drawn.values(source)
    return [drawn.fill(cell.source, values) for cell in source.tagged("solution")]


def untouched(source):
    """The cells of the notebook that a student is given."""
    return [c.source for c in pages.exercise_notebook(source).cells if c.cell_type == "code"]


def hand_in(folder, student, stem, text):
    """Write a file as a student hands it in."""
    path = folder / student / (stem if "." in stem else f"{stem}.ipynb")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path

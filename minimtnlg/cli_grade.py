"""`minimtnlg grade`: submissions to points, a gradebook and a page for each student."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def grade(
    paths: Annotated[
        list[Path], typer.Argument(help="A notebook, a module, or a folder of hundreds.")
    ],
    exercise: Annotated[
        list[str] | None,
        typer.Option(help="Only this one, and anew; may be given more than once."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write all that was found there.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the gradebook there.")] = None,
    gradescope: Annotated[
        Path | None, typer.Option(help="Write Gradescope's results.json of one student there.")
    ] = None,
    feedback: Annotated[
        Path | None, typer.Option(help="Write a page for each student into this folder.")
    ] = None,
    roster: Annotated[
        Path | None, typer.Option(help="A CSV file of all students: id,name[,email].")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Side by side; else one a core.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of one submission, by the clock.")] = 30,
    memory: Annotated[int, typer.Option(min=64, help="Of one submission, in MB.")] = 2048,
    course: Annotated[
        Path | None, typer.Option(help="Folder whose exercises/src counts; else the public ones.")
    ] = None,
):
    """Grade submissions in sandboxes. Exit status 0 if all points were got, else 1.

    What was graded is kept in .minimtnlg-grade and not graded again until something changes.
    """
    from minimtnlg.course import gradebook
    from minimtnlg.course.exercises import find
    from minimtnlg.course.grade import grade as run
    from minimtnlg.course.grade import one_student
    from minimtnlg.course.handback import write_pages
    from minimtnlg.course.sources import ROOT
    from minimtnlg.errors import InputError

    known = gradebook.read_roster(roster) if roster else None
    root = course or ROOT  # never what lies in a student's repository: its code would run here
    named = [find(name, root).stem for name in exercise or ()]
    results = run(
        paths, named or None, root, students=known or (), jobs=jobs, afresh=bool(named),
        tell=lambda text: print(text, file=sys.stderr), seconds=seconds, memory=memory,
    )  # fmt: skip
    if not results and not known:
        raise InputError(f"{', '.join(map(str, paths))}: no submission to an exercise found")
    if gradescope and not known:  # all that lies there is one student's
        results = one_student(results)
    table, stems = gradebook.by_student(results, known, named)
    if gradescope:
        gradebook.write(gradescope, gradebook.to_gradescope(table))
    if json:
        gradebook.write(json, gradebook.to_json(table, stems))
    if csv:
        gradebook.write(csv, gradebook.to_csv(table, stems, known))
    if feedback:
        write_pages(feedback, table, known)
    sys.stdout.reconfigure(errors="backslashreplace")
    print(gradebook.to_text(table, stems))
    if lost := [r for r in results if r.lost]:
        words = f"{len(lost)} could not be graded; run again. The first: {lost[0].trouble}"
        print(words, file=sys.stderr)
    if not gradebook.is_full(table):
        raise typer.Exit(1)

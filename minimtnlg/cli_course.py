"""`minimtnlg course`: lessons and exercises, to copy, build, run, or release to a class."""

from pathlib import Path
from typing import Annotated

import typer

course = typer.Typer(no_args_is_help=True, help="Build, execute or copy the lessons.")


@course.command("start")
def course_start(folder: Annotated[Path, typer.Argument()] = Path("work")):
    """Copy lessons and exercises to FOLDER, without outputs; never over a file that you edited."""
    from minimtnlg.course.build import start

    start(folder)


@course.command("status")
def course_status():
    """Show lessons done, guesses right, exercises solved on this machine, and what to do next."""
    from minimtnlg.course.status import status

    status()


@course.command("build")
def course_build(
    names: Annotated[list[str] | None, typer.Argument(help="Lessons, as 04; none: all.")] = None,
    execute: Annotated[bool, typer.Option(help="Run the cells and keep their output.")] = True,
):
    """Make the notebooks from notebooks/src and exercises/src."""
    from minimtnlg.course.build import build

    if any(result.state == "FAILED" for result in build(names, execute)):
        raise typer.Exit(1)


@course.command("need")
def course_need(
    name: Annotated[str, typer.Argument(help="corpus, tokenizer, nano or small.")],
):
    """Make what several lessons use, if it is not there yet, and say where it is."""
    from minimtnlg.course.need import need

    print(need(name))


@course.command("release")
def course_release(
    exercises: Annotated[
        str, typer.Option(help="06-12, or lessons and names, divided by commas.")
    ],
    seed: Annotated[int, typer.Option(help="Decides which numbers and bugs this class gets.")],
    out: Annotated[Path, typer.Option(help="Folder to make: class/ and private/ in it.")],
    nbgrader: Annotated[
        bool, typer.Option("--nbgrader", help="Write a course for nbgrader, too.")
    ] = False,
):
    """Make a class's own exercises: a repository for students, a private folder for the teacher."""
    from minimtnlg.course.release import release

    release(exercises, seed, out, nbgrader)


@course.command("run")
def course_run(
    names: Annotated[list[str] | None, typer.Argument(help="Lessons, as 04; none: all.")] = None,
):
    """Execute the lessons and end with a table: lesson, seconds, result."""
    from minimtnlg.course.build import run

    if any(result.state == "FAILED" for result in run(names)):
        raise typer.Exit(1)

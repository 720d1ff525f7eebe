"""Executes every lesson and keeps how long each took, the last step of `make times`."""

import sys

from results import Clock

from minimtnlg.course.build import run

SOURCES = (
    "notebooks/src", "minimtnlg/data", "minimtnlg/engines", "minimtnlg/evaluate",
    "minimtnlg/model", "minimtnlg/parallel", "minimtnlg/plan", "minimtnlg/train",
)  # fmt: skip

if __name__ == "__main__":
    clock = Clock(*SOURCES)
    found = run()
    if bad := [lesson.name for lesson in found if lesson.state != "ok"]:
        sys.exit(f"nothing is kept: {', '.join(bad)} did not run to the end")
    rows = [{"lesson": one.name, "seconds": round(one.seconds, 1)} for one in found]
    clock.write("course", lessons=rows)

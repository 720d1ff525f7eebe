"""Record the logs of lesson 17: a job on a real Slurm that ends well, and one that does not.

    python notebooks/recorded/17_slurm.py      # on Linux, as root, with slurm-wlm and munge

A private Slurm of two nodes is started on this machine (tests/slurm/private_slurm.py). It gets the
scripts that `minimtnlg launch` writes; for the job that ends well nothing in it is changed. In the
other one rank 5 of eight is killed with signal 9 after its second step, as the system does to a
process when memory runs out.

The two logs and the metrics of the good job are laid beside this file. Paths are cut to what
follows the repository or site-packages; what a progress bar overwrote is left out.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from minimtnlg.course.need import need
from minimtnlg.course.sources import ROOT
from minimtnlg.launch import script

sys.path.insert(0, str(ROOT / "tests" / "slurm"))
import private_slurm  # noqa: E402

HERE = Path(__file__).parent
KILL = """
    [ "$RANK" != 5 ] || (
        until grep -qs "step.: 2" runs/17_slurm/metrics.jsonl; do sleep 0.1; done
        pkill -9 -P $$ python
    ) &"""


def record(environment, folder, name, overrides, gpus_per_node, extra=""):
    """Run a job in `folder` and keep its log as 17_slurm_NAME.log; return what sbatch said."""
    folder.mkdir()
    text = script(
        HERE / "17_slurm.yaml",
        [f"data.path={need('corpus')}", *overrides],
        target="slurm",
        gpus_per_node=gpus_per_node,
        here=folder,
    )
    before = "LOCAL_WORLD_SIZE="
    assert text.count(before) == 1
    (folder / "job.sh").write_text(re.sub(rf"({before}\S+)", rf"\1{extra}", text))
    sbatch = ["sbatch", "--wait", "job.sh"]
    done = subprocess.run(sbatch, cwd=folder, env=environment, capture_output=True, text=True)
    (log,) = folder.glob("*.log")
    said = re.sub(r"(?m)^(\d+: )[^\n]*\r", r"\1", log.read_bytes().decode())  # a progress bar
    for path in (f"{ROOT}/", *(f"{p}/" for p in sys.path if p.endswith("site-packages"))):
        said = said.replace(path, "")
    (HERE / f"17_slurm_{name}.log").write_text(said)
    return done


def main():
    """Record both jobs."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        folder = Path(folder)
        (folder / "slurm").mkdir()
        with private_slurm.start(folder / "slurm") as environment:
            good = record(environment, folder / "good", "good", [], 2)
            failed = record(environment, folder / "failed", "failed", ["parallel.pp=2"], 4, KILL)
        metrics = folder / "good" / "runs" / "17_slurm" / "metrics.jsonl"
        (HERE / "17_slurm_metrics.jsonl").write_text(metrics.read_text())
    print(f"good job: exit code {good.returncode}; failed job: {failed.returncode}")


if __name__ == "__main__":
    if reason := private_slurm.missing():
        sys.exit(f"17_slurm.py: {reason}")
    main()

#!/usr/bin/env bash
# Gradescope runs this for each submission and reads results.json. Less than all points is no failure
# of the autograder; no results are.
cd /autograder
venv/bin/minimtnlg grade submission --course source --gradescope results/results.json
[ -s results/results.json ]

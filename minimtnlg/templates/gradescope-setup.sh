#!/usr/bin/env bash
# Gradescope runs this once, as root, when the autograder is made.
set -euo pipefail
apt-get update
apt-get install -y git python3 python3-venv
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install -r /autograder/source/requirements.txt

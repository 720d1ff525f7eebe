#!/bin/bash
{% include "header.txt" %}
#
#     bash THIS_FILE          on the node itself

set -euo pipefail
cd {{ here | sh }}  # relative paths below start here
run={{ run | sh }}

{% include "environment.sh" %}

# Where one rank fails, torchrun ends the others and says which it was.
exec {{ python | sh }} -m torch.distributed.run --standalone --nproc-per-node={{ gpus }} \
    -m minimtnlg {{ command | words }} --out "$run"

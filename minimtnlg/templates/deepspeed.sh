#!/bin/bash
{% include "header.txt" %}
#
{% if nodes > 1 %}
#     bash THIS_FILE HOSTS
#
# HOSTS is a file with the names of the {{ nodes }} nodes, one a line, in the order of ranks. This
# machine needs pdsh and reaches each of them by ssh without a password; all see the same files.
{% else %}
#     bash THIS_FILE          on the node itself
{% endif %}
#
# PORT=... before it chooses another port than 29500 for rank 0 to wait at.

set -euo pipefail
here={{ here | sh }}
run={{ run | sh }}

# DeepSpeed starts this file again for each rank: so quoting and environment survive pdsh.
if [ "${1:-}" = rank ]; then
    cd "$here"  # relative paths start here
    # DeepSpeed calls LOCAL_SIZE what others call LOCAL_WORLD_SIZE.
    export LOCAL_WORLD_SIZE=$LOCAL_SIZE
    {% filter indent(4, first=True) %}
{% include "environment.sh" %}
    {% endfilter %}
    exec {{ python | sh }} -m minimtnlg {{ command | words }} --out "$run"
fi
{% if nodes > 1 %}

[ -r "${1:-}" ] || { echo "usage: bash $0 HOSTS, a file with a host name a line" >&2; exit 2; }
count=$(grep -c . "$1" || true)
[ "$count" = {{ nodes }} ] || { echo "$1 has $count hosts, the layout needs {{ nodes }}" >&2; exit 2; }
hostfile=$(mktemp)
trap 'rm -f "$hostfile"' EXIT
grep . "$1" | sed 's/$/ slots={{ gpus }}/' >"$hostfile"
{% endif %}

# The command `deepspeed`, as a module of the interpreter that the ranks use.
{% if nodes > 1 %}
# Rank 0 waits on the first of HOSTS, by the name it has there: left alone, DeepSpeed takes the first
# of that node's addresses, which need not be one that the others reach.
{% endif %}
{{ python | sh }} -m deepspeed.launcher.runner \
{% if nodes > 1 %}
    --hostfile "$hostfile" --master_addr "$(grep -m 1 . "$1")" \
{% else %}
    --num_gpus {{ gpus }} \
{% endif %}
    --master_port "${PORT:-29500}" \
    --no_python --no_local_rank bash "$(realpath "$0")" rank

#!/bin/sh
# Remove from an environment what runs of fedhello never read, and keep bytecode of what they import alone.
#
#   sh slim.sh ENVIRONMENT
set -eu
site=$(echo "$1"/lib/python3.*/site-packages)

# Headers, build tools and torch's own test programs (torch.testing is imported by torch itself, so it stays).
rm -rf "$site"/torch/test "$site"/torch/include "$site"/torch/share
find "$site"/torch/bin -type f ! -name torch_shm_manager -delete
find "$site" -type f \( -name '*.a' -o -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cpp' -o -name '*.cu' \
    -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' \) -delete

# Symbols for linking and debugging, a fifth of torch. (Other wheels' libraries were patched, and may not survive it.)
strip --strip-unneeded "$site"/torch/lib/libtorch_cpu.so "$site"/torch/lib/libtorch_python.so

# Tests of packages.
find "$site" -type d -name tests ! -path '*/torch/*' -prune -exec rm -rf {} +

# Installers: pip, and uv, by which Flower would install what a server names; that is switched off here.
"$1"/bin/python -m pip uninstall --quiet --yes setuptools pip
rm -f "$1"/bin/uv "$1"/bin/uvx

# Bytecode: all of it takes 250 MB; none of it, seconds at every start.
find "$site" -type d -name __pycache__ -prune -exec rm -rf {} +
env -u PYTHONDONTWRITEBYTECODE HF_HUB_OFFLINE=1 "$1"/bin/python - <<'PYTHON'
import fedhello.cli.main
import fedhello.network.dry_run
import fedhello.network.federation
import fedhello.network.flower
import fedhello.network.local_clients
import fedhello.network.monitor
import fedhello.network.preparation
import fedhello.runs.runner
import flwr.superlink.cli
import flwr.supernode.cli
import torch
from transformers import AutoModel, AutoTokenizer, BertForSequenceClassification

assert torch.linalg.solve(torch.eye(3) * 2, torch.ones(3)).tolist() == [0.5] * 3  # torch is whole
PYTHON

#!/usr/bin/env bash
# The comparison that docs/explanation/comparison.md records: methods of the field, each at its own learning rate.
#
#     apt-get download wordnet-base && dpkg -x wordnet-base*.deb x
#     bash benchmarks/comparison.sh x/usr/share/wordnet [OUT]
#
# One `fedhello compare` on 40 classes of WordNet's definitions, five of them per client, in OUT (`runs/definitions`
# unless given); two to three hours of one core. If it stops, the same command goes on. It needs the extras `demo` and
# `report`.
set -euo pipefail
wordnet=$1
out=${2:-runs/definitions}
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

mkdir -p "$out"
python "$(dirname "$0")/senses.py" "$wordnet" senses.csv
fedhello compare data.name=senses.csv data.max_length=24 data.clients=32 \
  'data.partition={kind: pathological, classes_per_client: 5}' \
  train.clients_per_round=6 train.rounds=8 \
  --methods full,fed-hello:warmup=3:refresh=3,flexlora,ffa-lora,centralised,straggler,helora-pad,flora \
  --seeds 0,1,2,3,4 --tune --rates 1e-3,2e-3,5e-3,1e-2,2e-2 --reference full --out "$out"

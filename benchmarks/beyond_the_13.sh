#!/bin/sh
# What policies of several pieces and PLATEAU give beside the best of the 13: a study for LeNet at full length, which goes beside the
# trainings of table-7, and one for CNN3 at a twentieth of it, with everything that counts iterations made shorter alike; there
# SIN is among the paper's best of Table VIII and NSTEP Caffe's own schedule.  Run again, it goes on where it was cut off.
#
#     sh benchmarks/beyond_the_13.sh lenet DATA [more options of `lrbench study run`]
#     sh benchmarks/beyond_the_13.sh cnn3 DATA
#
# `lrbench study show beyond-lenet` has the results; `--max-iter 20` is a try, `--seeds 3` trains each three times.
set -eu
net=$1 data=$2
shift 2
case $net in
lenet) set -- \
    --policy "WARMUP(k0=0.01) for 1 epoch then COS(k0=0.06, k1=0, l=9400)" \
    --policy "SIN2(k0=0.01, k1=0.06, l=2000) for 8000 then FIX(k0=0.001)" \
    --policy "TRI(k0=0.006, k1=0.06, l=4500) for 9000 then POLY(k0=0.006, k1=0.00006, p=1, l=1000)" \
    --policy "SGDR(k0=0.06, k1=0, l=1429, mult=2)" \
    --policy "PLATEAU(k0=0.01, gamma=0.5, l=2 epochs)" \
    --policy "WARMUP(k0=0.01) for 1 epoch then PLATEAU(k0=0.06, gamma=0.5, l=2 epochs, of=top1)" "$@" ;;
cnn3) set -- --max-iter 3500 \
    --policy "SIN(k0=0.00005, k1=0.006, l=100)" \
    --policy "PLATEAU(k0=0.003, gamma=0.3, l=1 epoch)" \
    --policy "WARMUP(k0=0.0003) for 1 epoch then COS(k0=0.003, k1=0, l=3000)" \
    --policy "SIN(k0=0.00005, k1=0.006, l=100) for 3000 then FIX(k0=0.00005)" \
    --policy "NSTEP(k0=0.001, gamma=0.1, l=[3000, 3250])" \
    --policy "SGDR(k0=0.003, k1=0, l=500, mult=2)" "$@" ;;
*) echo "usage: sh benchmarks/beyond_the_13.sh lenet|cnn3 DATA" >&2; exit 2 ;;
esac
root=$(dirname "$0")/..
exec "$root/docker/run" lrbench study run "beyond-$net" "$root/solvers/${net}_solver.prototxt" --data "$data" "$@"

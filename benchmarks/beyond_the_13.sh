#!/bin/sh
# Trains policies beyond the paper's 13 functions: policies of several pieces, SGDR, and PLATEAU.
#
#     sh benchmarks/beyond_the_13.sh lenet DATA [options of `lrbench study run`]
#     sh benchmarks/beyond_the_13.sh cnn3 DATA
#
# lenet trains at full length, to be compared with table-7. cnn3 trains a twentieth of its full
# length, with all lengths in its policies shortened alike. For comparison it also trains SIN, which
# is among the best policies of Table VIII, and NSTEP, the schedule of Caffe's example.
#
# `lrbench study show beyond-lenet` shows the results. `--max-iter 20` makes a quick test, `--seeds 3`
# trains each policy three times. If the script was interrupted, run it again to continue.
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

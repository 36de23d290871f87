#!/bin/sh
# What policies of several pieces and PLATEAU give beside the best of the 13: a study for LeNet at full length, one for CNN3 at a
# seventh of it, with everything that counts iterations made shorter alike.  Run again, it goes on where it was cut off.
#
#     sh results/beyond_the_13.sh lenet DATA [more options of `lrbench study run`]
#     sh results/beyond_the_13.sh cnn3 DATA
#
# `lrbench study show beyond-lenet` has the results; `--seeds 1 --max-iter 20` is a try.
set -eu
net=$1 data=$2
shift 2
case $net in
lenet) set -- --seeds 3 \
    --policy "SIN2(k0=0.01, k1=0.06, l=2000)" \
    --policy "COS(k0=0.01, k1=0.06, l=2000)" \
    --policy "INV(k0=0.01, gamma=0.0001, p=0.75)" \
    --policy "WARMUP(k0=0.001) for 1 epoch then INV(k0=0.01, gamma=0.0001, p=0.75)" \
    --policy "WARMUP(k0=0.01) for 1 epoch then COS(k0=0.06, k1=0, l=9400)" \
    --policy "SIN2(k0=0.01, k1=0.06, l=2000) for 8000 then FIX(k0=0.001)" \
    --policy "TRI(k0=0.006, k1=0.06, l=4500) for 9000 then POLY(k0=0.006, k1=0.00006, p=1, l=1000)" \
    --policy "SGDR(k0=0.06, k1=0, l=1429, mult=2)" \
    --policy "PLATEAU(k0=0.01, gamma=0.5, l=2 epochs)" \
    --policy "PLATEAU(k0=0.06, gamma=0.5, l=2 epochs, of=train_loss)" \
    --policy "WARMUP(k0=0.01) for 1 epoch then PLATEAU(k0=0.06, gamma=0.5, l=2 epochs, of=top1)" "$@" ;;
cnn3) set -- --seeds 3 --max-iter 10000 \
    --policy "NSTEP(k0=0.001, gamma=0.1, l=[8571, 9286])" \
    --policy "SINEXP(k0=0.00005, k1=0.006, gamma=0.99958, l=286)" \
    --policy "TRIEXP(k0=0.00005, k1=0.006, gamma=0.99958, l=286)" \
    --policy "WARMUP(k0=0.0001) for 1 epoch then NSTEP(k0=0.001, gamma=0.1, l=[8071, 8786])" \
    --policy "WARMUP(k0=0.0001) for 1 epoch then COS(k0=0.003, k1=0, l=9500)" \
    --policy "SINEXP(k0=0.00005, k1=0.006, gamma=0.99958, l=286) for 9000 then FIX(k0=0.00005)" \
    --policy "TRI(k0=0.0003, k1=0.003, l=4500) for 9000 then POLY(k0=0.0003, k1=0.000003, p=1, l=1000)" \
    --policy "SGDR(k0=0.003, k1=0, l=1429, mult=2)" \
    --policy "PLATEAU(k0=0.001, gamma=0.3, l=2 epochs)" \
    --policy "WARMUP(k0=0.0001) for 1 epoch then PLATEAU(k0=0.003, gamma=0.3, l=2 epochs)" "$@" ;;
*) echo "usage: sh results/beyond_the_13.sh lenet|cnn3 DATA" >&2; exit 2 ;;
esac
root=$(dirname "$0")/..
exec "$root/docker/run" lrbench study run "beyond-$net" "$root/solvers/${net}_solver.prototxt" --data "$data" "$@"

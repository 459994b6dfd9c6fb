#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: whichever operation of a workload fails, nothing crashes, nothing flushed is lost,
# errors are told, and check finds leaks at most; see fault.c. Tries for half a minute, or
# for BYRE_SOAK seconds from a seed of its own.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"

fault=$BYRE_BUILD/tests/fault/fault
seed=1
seconds=10
if [ -n "$BYRE_SOAK" ]; then
	seed=$(date +%s)
	seconds=$((BYRE_SOAK / 3))
fi

while IFS='|' read -r args name; do
	case $args in
	'' | '#'*) continue ;;
	esac
	# shellcheck disable=SC2086 # words
	ok "regression: $name" "$fault" $args
	cat out
done <"$BYRE_SRC/tests/fault/regressions"

ok "images of any kind, from seed $seed" "$fault" --seed "$seed" --seconds "$seconds"
cat out
ok "version 2, from seed $seed" "$fault" --seed "$seed" --seconds "$seconds" \
	--config version=2,refcount=16,subclusters=off,zstd=off,lazy=off
cat out
ok "clusters of 512 bytes, from seed $seed" "$fault" --seed "$seed" --seconds "$seconds" \
	--config cluster=512,subclusters=off,size=100k
cat out

done_testing

#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: after a power cut at any moment an image opens, keeps what was flushed, shows no
# sector another's data, and has leaks at most; see crash.c. Tries for half a minute, or for
# BYRE_SOAK seconds from a seed of its own.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"

crash=$BYRE_BUILD/tests/crash/crash
seed=1
seconds=10
if [ -n "$BYRE_SOAK" ]; then
	seed=$(date +%s)
	seconds=$((BYRE_SOAK / 3))
fi
states=0

# cut_power NAME ARGS...
cut_power () {
	ok "$@"
	cat out
	states=$((states + $(sed -n 's/^# \([0-9]*\) crash states.*/\1/p' out)))
}

# States that once went wrong, by the symptom: arguments, then the name.
while IFS='|' read -r args name; do
	case $args in
	'' | '#'*) continue ;;
	esac
	# shellcheck disable=SC2086 # words
	cut_power "regression: $name" "$crash" $args
done <"$BYRE_SRC/tests/crash/regressions"

cut_power "images of any kind, from seed $seed" "$crash" --seed "$seed" --seconds "$seconds"
cut_power "version 2, from seed $seed" "$crash" --seed "$seed" --seconds "$seconds" \
	--config version=2,refcount=16,subclusters=off,zstd=off,lazy=off
cut_power "lazy refcounts, small clusters, from seed $seed" "$crash" --seed "$seed" --seconds "$seconds" \
	--config version=3,lazy=on,cluster=1024,subclusters=off,luks=off,size=200k
echo "# $states crash states in all"

done_testing

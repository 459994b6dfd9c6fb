#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: an image and a flat array that are told the same never differ; see model.c. Runs for
# half a minute, or for BYRE_SOAK seconds from a seed of its own.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"

model=$BYRE_BUILD/tests/model/model
seed=1
seconds=8
if [ -n "$BYRE_SOAK" ]; then
	seed=$(date +%s)
	seconds=$((BYRE_SOAK / 5))
fi

# Images that once went wrong, by the symptom: arguments, then the name.
while IFS='|' read -r args name; do
	case $args in
	'' | '#'*) continue ;;
	esac
	# shellcheck disable=SC2086 # words
	ok "regression: $name" "$model" $args
done <"$BYRE_SRC/tests/model/regressions"

ok "plain calls, seed $seed" "$model" --seed "$seed" --seconds "$seconds" --loops 0
ok "one loop, seed $seed" "$model" --seed "$seed" --seconds "$seconds" --loops 1
ok "three loops, seed $seed" "$model" --seed "$seed" --seconds "$seconds" --loops 3
ok "any of these, seed $seed" "$model" --seed "$((seed + 1000000))" --seconds "$seconds"
BYRE_LOOP=epoll
export BYRE_LOOP
ok "the epoll engine, seed $seed" "$model" --seed "$((seed + 2000000))" --seconds "$seconds"

done_testing

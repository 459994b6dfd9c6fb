#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a guest that keeps its disk busy for BYRE_SOAK seconds reads what it wrote all the time, and its process
# has no more memory (beside the guest's) and no more descriptors in the end than near the beginning.
# timeout: 1800
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/lab/lab.sh"
. "$BYRE_SRC/tests/lab/guest.sh"
[ -x "$BYRE_BUILD/byre" ] || skip_all "byre is built for x86-64 only"
[ -n "$BYRE_SOAK" ] || skip_all "it takes minutes to show anything: make soak"
# One processor: where two are emulated that run guests, one of them errs now and then within minutes.
own_machine --kvm --memory 1400 --cpus 1
own_guest
most_growth_kib=8192 most_descriptors=4

must byre-img create -q -f qcow2 disk.qcow2 128M
cat >job <<END
end=\$((\$(cut -d . -f 1 /proc/uptime) + $BYRE_SOAK)) seed=$$
while [ \$(cut -d . -f 1 /proc/uptime) -lt \$end ]; do
	verify /dev/vda 2 500 \$seed || break
	seed=\$((seed + 1))
done
exit
END
guest_seconds=$((BYRE_SOAK * 2 + 600))
run_guest --cpus 2 --disk file=disk.qcow2,format=qcow2,queues=2,discard=unmap &
guest=$!
began () { grep -q '^verified' console; }
within 300 began || fail "the guest is busy" "$(tail -n 5 console errors)"

# Every ten seconds: what the process has beside the guest's memory, and descriptors.
pid=$(pidof byre)
while kill -0 "$pid" 2>/dev/null; do
	echo "$(beside_guest "$pid") $(ls "/proc/$pid/fd" | wc -l)" >>samples
	sleep 10
done
wait $guest
is $? 0 "the guest ended" || sed 's/^/# /' errors
like "$(said)" '^END' "by itself"
is "$(said | grep -c -v '^verified\|^BEGIN\|^END')" 0 "every byte was right" || said | grep -v verified | sed 's/^/# /'
echo "# $(said | grep -c verified) rounds, $(wc -l <samples) samples"

# The last sample may be of a process that is ending. The first tenth is warming up.
sed -i '$d' samples
ok "no growth" awk -v kib=$most_growth_kib -v fds=$most_descriptors '
	{ memory[NR] = $1; open[NR] = $2 }
	END {
		first = int(NR / 10) + 1
		printf "memory %d KiB, then %d; descriptors %d, then %d\n", memory[first], memory[NR], open[first], open[NR]
		exit NR < 2 || memory[NR] > memory[first] + kib || open[NR] > open[first] + fds
	}' samples
sed 's/^/# /' out
ok "sound" byre-img check -q disk.qcow2
done_testing

#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: a qcow2 image on a device that is too small for it is written to its end, because the
# watermark's hook enlarges the device in time; a hook that does not leaves a sound image and
# a clear error; what measure says fits, fits.
# timeout: 240
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/devices.sh"
own_mounts "$@"

# disk FILE MIB: random data all through.
disk () { head -c "$2M" /dev/urandom >"$1"; }
# volume MIB [OPTION...]: a device of that size in $device, over the file volume.
volume () {
	release
	rm -f volume
	truncate -s "$1M" volume
	shift
	attach volume "$@"
}
script () {
	cat >hook.new
	chmod +x hook.new
	mv hook.new hook
	rm -f hook.log
}
# The volume by 16 MiB for each run.
grows () {
	script <<END
#!/bin/sh
echo "\$@" >>$PWD/hook.log
echo printed
truncate -s +16M $PWD/volume && losetup -c "\$1"
END
}
over () { echo "driver=qcow2,file.driver=watermark,file.hook=$PWD/hook,file.room=$1,file.file.filename=$device"; }
runs () { wc -l <hook.log; }

disk disk.raw 40
for cache in writeback none; do
	for sector in 512 4096; do
		volume 16 --sector-size $sector
		grows
		ok "create" byre-img create -q -f qcow2 "$device" 40M
		ok "40 MiB into 16 ($cache, sectors of $sector)" \
			byre-img convert -n -t $cache -f raw --target-image-opts disk.raw "$(over 4M)"
		is "$(cat out err | grep -v printed)" "" "and nothing was said"
		unlike "$(cat out)" printed "what the hook prints is no result"
		ok "the same" byre-img compare -q -f raw -F qcow2 disk.raw "$device"
		ok "sound" byre-img check -q -f qcow2 "$device"
		is "$(runs)" 2 "two crossings, two runs"
		like "$(head -n 1 hook.log)" "^$device 1[2-6][0-9]* 16777216\$" "told file, end and size"
		like "$(tail -n 1 hook.log)" "^$device [0-9]* 33554432\$" "and the new size"
	done
done

# Much at once: nothing has crossed the mark before there is no room.
volume 16
grows
byre-img create -q -f qcow2 "$device" 64M
ok "one write of more than there is" byre-io --image-opts -c 'write -q -P 9 0 20M' "$(over 64k)"
ok "it is there" byre-io -r -f qcow2 -c 'read -q -P 9 0 20M' "$device"
ok "sound" byre-img check -q -f qcow2 "$device"

# A write that fits does not wait: its hook waits for what comes after it.
volume 16
grows
# shellcheck disable=SC2016 # for the hook
sed -i '2i\n=0; until [ -e '"$PWD"'/go ] || [ $n = 100 ]; do sleep 0.1; n=$((n + 1)); done' hook
byre-img create -q -f qcow2 "$device" 64M
mkfifo commands
byre-io --image-opts "$(over 8M)" <commands >io.out 2>&1 &
writer=$!
exec 3>commands
echo 'write -P 3 0 10M' >&3
ok "a write past the mark ends while the hook runs" wait_for grep -q "^.*wrote 10485760" io.out
ok "it has not ended" test ! -e hook.log
touch go
ok "now it has" wait_for test -e hook.log
exec 3>&-
wait $writer
is $? 0 "closed"
is "$(blockdev --getsize64 "$device")" 33554432 "the device is larger"
rm go

# Nothing but failure: the image stays sound, and the reason is told.
fails () {
	fails_name=$1
	volume 16
	byre-img create -q -f qcow2 "$device" 40M
	began=$(date +%s)
	not_ok "$fails_name: refused" byre-img convert -n -f raw --target-image-opts disk.raw "$(over 4M),file.hook-timeout=2"
	like "$(cat err)" "No space left on device" "$fails_name: no space"
	like "$(cat err)" "$2" "$fails_name: why"
	ok "$fails_name: in bounded time" test $(($(date +%s) - began)) -lt 20
	ok "$fails_name: sound" byre-img check -q -f qcow2 "$device"
}
script <<'END'
#!/bin/sh
exit 3
END
fails "a hook that fails" "hook '.*/hook' failed with exit status 3"
script <<'END'
#!/bin/sh
exit 0
END
fails "a hook that does nothing" "hook '.*/hook' has run and the device is no larger"
script <<END
#!/bin/sh
echo \$\$ >$PWD/hook.pid
sleep 1000
END
fails "a hook that hangs" "hook '.*/hook' has run for 2 seconds: ended"
not_ok "and is gone" kill -0 "$(cat hook.pid)"
script <<'END'
#!/nowhere/sh
END
fails "a hook that cannot run" "hook '.*/hook' could not be run: No such file"
script <<'END'
#!/bin/sh
kill -9 $$
END
fails "a hook that dies" "hook '.*/hook' was ended by signal 9"

# Who may have one.
grows
volume 16
byre-img create -q -f qcow2 "$device" 40M
ok "reading" byre-img convert --image-opts -O raw "$(over 16M)" back.raw
ok "runs none" test ! -e hook.log
truncate -s 16M file.raw
refused () {
	not_ok "$1" byre-io --image-opts -c 'read 0 512' "$2"
	like "$(cat err)" "$3" "$1: says so"
}
refused "over a file" "driver=raw,file.driver=watermark,file.hook=$PWD/hook,file.file.filename=file.raw" "grows by itself"
refused "without a hook" "driver=raw,file.driver=watermark,file.file.filename=$device" "hook= has to be"
refused "by a name" "driver=raw,file.driver=watermark,file.hook=hook,file.file.filename=$device" "hook= has to be"
refused "not a program" "driver=raw,file.driver=watermark,file.hook=$PWD/file.raw,file.file.filename=$device" "Permission denied"
refused "no time" "driver=raw,file.driver=watermark,file.hook=$PWD/hook,file.hook-timeout=0,file.file.filename=$device" "hook-timeout=0"

# What measure requires is enough, without any hook.
python3 - <<'PY'
import os
with open("sparse.raw", "wb") as f:
    f.truncate(300 << 20)
    for i in range(0, 300, 7):
        f.seek((i << 20) + 12345)
        f.write(os.urandom(100000))
PY
# Preallocated metadata is of the whole disk.
for options in cluster_size=64k cluster_size=8k cluster_size=2M compat=0.10 extended_l2=on refcount_bits=64,cluster_size=4k preallocation=metadata; do
	for source in disk.raw sparse.raw; do
		need=required
		[ "$options" != preallocation=metadata ] || need=fully-allocated
		size=$(byre-img measure -O qcow2 -o "$options" -f raw --output=json $source |
			python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' $need)
		release
		rm -f volume
		truncate -s "$size" volume
		attach volume
		ok "$source fits where measure says so ($options)" \
			byre-img convert -f raw -O qcow2 -o "$options" $source "$device"
		ok "$source: sound" byre-img check -q -f qcow2 "$device"
		ok "$source: the same" byre-img compare -q -f raw -F qcow2 $source "$device"
	done
done
done_testing

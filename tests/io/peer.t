#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: byre-io reads the same grammar and prints the same lines as the installed qemu-io,
# for results, mistakes and exit codes; only times, help sentences and the name differ.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/io/both.sh"

have qemu-io && peer_at_least 10 0 || skip_all "qemu-io 10 is not installed"

raw='qemu-img create -q -f raw t.raw 1M'
qcow2='qemu-img create -q -f qcow2 t.qcow2 64M'
both="$raw; $qcow2; printf abc >pattern; : >empty"

for spec in "raw t.raw" "qcow2 t.qcow2"; do
	fmt=${spec% *} img=${spec#* }

	alike "$fmt: write and read" "$both" -f "$fmt" -c 'write 0 64k' -c 'read 0 64k' \
		-c 'write -P 0x55 64k 64k' -c 'read -P 0x55 64k 64k' -c 'w 3 5' -c 'r 3 5' "$img"
	alike "$fmt: a wrong pattern is a failure that reports" "$both" -f "$fmt" -c 'write -P 1 0 64k' \
		-c 'read -P 2 0 64k' -c 'read -q -P 2 512 64' -c 'read -P 1 0 64k' "$img"
	alike "$fmt: part of what was read is verified" "$both" -f "$fmt" -c 'write -q -P 1 1024 512' \
		-c 'read -P 1 -s 512 -l 512 512 2k' -c 'read -P 0 -l 512 512 2k' -c 'read -P 0 -s 1024 512 2k' \
		-c 'read -P 2 -s 512 -l 100 512 2k' -c 'read -P 1 -s 64k -l 512 0 1k' -c 'read -P 0 -s 512 0 512' \
		-c 'read -s 1 0 512' -c 'read -l 1 0 512' -c 'read -P 1 -s x 0 512' -c 'read -P 1 -l -1 0 512' "$img"
	alike "$fmt: dumps" "$both" -f "$fmt" -c 'write -q -s pattern 5 20' -c 'read -v 0 40' \
		-c 'read -qv 0 40' -c 'readv -v 0 16 3' -c 'read -Cv 0 16' "$img"
	alike "$fmt: sources of patterns" "$both" -f "$fmt" -c 'write -s pattern 0 512' -c 'write -s nofile 0 512' \
		-c 'write -s empty 0 512' -c 'write -s pattern -P 1 0 512' -c 'write -P 300 0 512' \
		-c 'write -P -1 0 512' -c 'write -P x 0 1' -c 'write -P 0x 0 1' -c 'write -P 010 0 3' -c 'read -v 0 4' "$img"
	alike "$fmt: vectors" "$both" -f "$fmt" -c 'writev 0 512 1k 3' -c 'readv -P 0xcd 0 1k 512 3' \
		-c 'writev -P 3 0 1 2 3' -c 'readv -v 0 2 2 2 2' -c 'readv -P 4 0 16 16' -c 'readv 0' -c 'readv 0 0' \
		-c 'readv 0 x' -c 'readv 0 1 x' -c 'writev 0 3G' -c 'writev 0 1G 1G' -c 'writev -f 0 512' \
		-c 'writev -q 0 512' -c 'readv -qv 0 512' -c 'readv -C 0 5 5' -c 'writev -z 0 512' "$img"
	alike "$fmt: ranges outside the disk" "$both" -f "$fmt" -c 'read 65M 512' -c 'write 65M 512' \
		-c 'read 63M 2M' -c 'writev 65M 512' -c 'readv 65M 1 2' -c 'write -z 65M 512' -c 'discard 65M 64k' \
		-c 'read 65M 0' -c 'alloc 65M 512' "$img"
	alike "$fmt: nothing at all" "$both" -f "$fmt" -c 'read 0 0' -c 'write 0 0' -c 'write -z 0 0' \
		-c 'discard 0 0' -c 'aio_write 0 0' -c aio_flush -c 'alloc 0 0' "$img"
	alike "$fmt: sizes" "$both" -f "$fmt" -c 'read 0x10 0x10' -c 'read 010 010' -c 'read 1e3 1' -c 'read 1b 1b' \
		-c 'read +1 1' -c 'read 0 1.5k' -c 'read 0 1kk' -c 'read 0 1Q' -c 'read x 1' -c 'read 0 x' \
		-c 'read 0 4G' -c 'read 0 8E' -c 'read -- -1 512' -c 'read -- 0 -1' -c 'read 0 -1' \
		-c 'write 0 4G' -c 'write -z 0 4G' -c 'discard 0 4G' "$img"
	alike "$fmt: zeros" "$both" -f "$fmt" -c 'write -q 0 256k' -c 'write -z 0 64k' -c 'read -P 0 0 64k' \
		-c 'write -zu 64k 64k' -c 'write -z 100 1000' -c 'write -zf 0 512' -c 'write -zuq 128k 1k' \
		-c 'read -P 0 64k 64k' -c 'read -P 0xcd 200k 512' "$img"
	alike "$fmt: options that do not go together" "$both" -f "$fmt" -c 'write -u 0 512' -c 'write -n 0 512' \
		-c 'write -z -P 1 0 512' -c 'write -b -z 0 512' -c 'write -c -f 0 64k' -c 'aio_write -u 0 512' \
		-c 'aio_write -z 0 512 512' "$img"
	alike "$fmt: asynchronous requests" "$both" -f "$fmt" -c 'aio_write -P 1 0 64k 64k' -c aio_flush \
		-c 'aio_read -P 1 0 64k' -c aio_flush -c 'aio_read -P 2 64k 64k' -c aio_flush \
		-c 'aio_write -q 0 512' -c aio_flush -c 'aio_read -v 0 16' -c aio_flush -c 'aio_read -C 0 16' \
		-c aio_flush -c 'aio_read 65M 512' -c aio_flush -c 'aio_write 65M 512' -c aio_flush \
		-c 'aio_write -i 0 512' -c 'aio_read -i 0 512' -c 'aio_read 0' -c 'aio_read x 1' -c 'aio_write 0 x' \
		-c 'aio_write -f 0 512' -c aio_flush -c 'aio_write -P 300 0 1' "$img"
	alike "$fmt: discard and flush" "$both" -f "$fmt" -c 'write -q 0 256k' -c 'discard 0 64k' -c 'discard -q 0 1k' \
		-c 'discard -C 64k 64k' -c 'discard 0 100' -c 'discard 0' -c 'discard x 1' -c 'discard 1 x' \
		-c 'discard -x 0 1' -c flush -c 'flush x' "$img"
	alike "$fmt: lengths" "$both" -f "$fmt" -c length -c 'truncate 32M' -c length -c 'truncate 512' -c length \
		-c 'truncate -m off 1M' -c length -c 'truncate -m nonsense 1M' -c 'truncate x' -c truncate \
		-c 'truncate -x 1' -c 'length x' "$img"
	alike "$fmt: a read-only image" "$both" -f "$fmt" -r -c 'write 0 512' -c 'discard 0 512' -c 'writev 0 1' \
		-c 'aio_write 0 1' -c 'truncate 1' -c 'read 0 512' -c 'write 0' -c 'write -x 0 1' "$img"
	alike "$fmt: reopen" "$both" -f "$fmt" -c 'reopen -r' -c 'write 0 512' -c 'reopen -w' -c 'write 0 512' \
		-c 'reopen -r -w' -c 'reopen -c none' -c 'reopen -c nonsense' -c 'reopen x' -c reopen -c length "$img"
done

alike "qcow2: what is allocated" "$both" -c map -c 'alloc 0 1M' -c 'write -q 0 128k' -c 'write -q 3M 3' \
	-c map -c 'alloc 0' -c 'alloc 100' -c 'alloc 100 100' -c 'alloc 0 1M' -c 'alloc 63.9M 1M' -c 'alloc x' \
	-c 'alloc 0 x' -c alloc -c 'alloc 0 3P' -c 'map x' t.qcow2
alike "raw: what is allocated" "$both" -f raw -c map -c 'alloc 0 512' -c 'alloc 0 1M' t.raw
alike "qcow2: compressed writes" "$both" -c 'write -c 0 64k' -c 'read -P 0xcd 0 64k' -c 'write -c 512 512' \
	-c 'write -c 0 512' -c 'write -c 0 0' t.qcow2
alike "qcow2: info" "$both" -c info -c 'info x' t.qcow2
alike "raw: info" "$both" -f raw -c info t.raw
alike "qcow2: info of many kinds" "
	qemu-img create -q -f qcow2 -o extended_l2=on a.qcow2 3G
	qemu-img create -q -f qcow2 -o compat=0.10 b.qcow2 3G
	qemu-img create -q -f qcow2 -o cluster_size=512,lazy_refcounts=on,refcount_bits=1 c.qcow2 1M
	qemu-img create -q -f qcow2 -o compression_type=zstd,data_file=x.raw,data_file_raw=on d.qcow2 5G
	qemu-img create -q -f qcow2 e.qcow2 0" \
	-c 'open a.qcow2' -c info -c close -c 'open b.qcow2' -c info -c close -c 'open c.qcow2' -c info -c close \
	-c 'open d.qcow2' -c info -c map -c close -c 'open e.qcow2' -c info -c map -c 'read 0 0'
alike "an overlay holds what was written to it" "$qcow2; qemu-img create -q -f qcow2 -F qcow2 -b t.qcow2 o.qcow2 80M
	qemu-io -c 'write -q -P 7 0 1M' t.qcow2" \
	-c map -c 'read -P 7 0 1M' -c 'write -q 512k 64k' -c map -c 'read -P 7 0 512k' -c 'read -P 0 64M 16M' o.qcow2
alike "-s keeps changes from the image" "$both" -s -c 'write -P 9 0 64k' -c 'read -P 9 0 64k' -c 'read -P 0 64k 64k' t.qcow2
alike "-C copies what was read" "$qcow2; qemu-io -c 'write -q 0 1M' t.qcow2
	qemu-img create -q -f qcow2 -F qcow2 -b t.qcow2 o.qcow2" -C -c 'read 0 128k' -c map o.qcow2
alike "open and close" "$both" -c length -c close -c 'open t.qcow2' -c length -c 'open t.raw' -c close -c 'close' \
	-c 'open -r t.qcow2' -c 'write 0 512' -c close -c 'open -o driver=qcow2,file.filename=t.qcow2' -c length -c close \
	-c 'open -o driver=qcow2 -o file.filename=t.qcow2' -c length -c close -c 'open nofile' -c open -c 'open a b' \
	-c 'open -t nonsense t.raw' -c 'open -d nonsense t.raw' -c 'open -i nonsense t.raw' -c 'open -x t.raw' \
	-c 'open -n -d unmap t.qcow2' -c length
alike "what needs a file says so" "" -c length -c 'read 0 1' -c info -c map -c 'sleep 1' -c 'read'
alike "unknown commands, empty ones, quit" "$both" -c nonsense -c '' -c '  length ' -c 'help nonsense' \
	-c 'help read write' -c 'quit now' -c length t.qcow2
alike "sleep and its mistakes" "$both" -c 'sleep 1' -c 'sleep x' -c sleep -c 'sleep 1 2' -c 'sleep -1' -c 'sigraise x' \
	-c sigraise -c 'sigraise 99' -c 'sigraise 0' t.qcow2
alike "sigraise" "" -c 'sigraise 15' -c length
alike "options: modes" "$both" -n -t writeback -d unmap -i threads -m -c length t.qcow2
alike "options: wrong cache mode" "$both" -t nonsense t.qcow2
alike "options: wrong discard mode" "$both" -d nonsense t.qcow2
alike "options: wrong aio mode" "$both" -i nonsense t.qcow2
alike "options: native aio without direct I/O" "$both" -i native -c length t.qcow2
alike "options: native aio" "$both" -n -i native -c length t.qcow2
alike "options: image options" "$both" --image-opts driver=qcow2,file.filename=t.qcow2 -c length
alike "options: image options and a format" "$both" --image-opts -f qcow2 driver=qcow2,file.filename=t.qcow2
alike "options: an image as JSON" "$both" 'json:{"driver":"qcow2","file":{"driver":"file","filename":"t.qcow2"}}' -c length
alike "options: a part of an image as JSON, -s" "$both" -s 'json:{"driver":"raw","offset":65536,"size":65536,"file":{"driver":"file","filename":"t.qcow2"}}' -c 'read -v 0 16'
alike "options: no such image" "" -c length nofile
alike "options: no such format" "$both" -f nonsense -c length t.raw
alike "options: another format" "$both" -f qcow2 -c length t.raw
alike "options: shared and writable" "$both" -U -c length t.qcow2
alike "options: shared" "$both" -U -r -c length t.qcow2
alike "options: copy-on-read of a read-only image" "$both" -C -r -c length t.qcow2
alike "options: objects" "$both" --object secret,id=s,data=abc -c length t.qcow2
alike "options: an unknown object" "$both" --object nonsense,id=s -c length t.qcow2

# Found by comparing at random; each was a difference once.
over="$qcow2; qemu-io -c 'write -q -P 0x11 0 4M' t.qcow2; qemu-img create -q -f qcow2 -F qcow2 -b t.qcow2 o.qcow2"
alike "discards are passed on by default" "$both" -f raw -c 'write -q 0 1M' -c 'discard -q 0 512k' \
	-c 'read -q -P 0 0 512k' t.raw
alike "detect-zeroes=unmap by default" "$both" -c length --image-opts driver=qcow2,file.filename=t.qcow2,detect-zeroes=unmap
alike "what is discarded over a backing file reads as zeros" "$over" -c 'discard -q 2M 512k' -c 'read -q -P 0 2M 512k' \
	-c 'read -q -P 0x11 3M 512k' -c map o.qcow2
alike "a reopen does not change what the image is" "$both" -f qcow2 -c 'reopen -o driver=raw' -c 'write -q 0 64k' \
	-c 'reopen -o driver=qcow2,file.filename=t.qcow2' -c 'read -q -P 0xcd 0 64k' \
	-c 'reopen -c none -o cache.direct=on' -c 'reopen -r -o force-share=on' t.qcow2
alike "lazy refcounts need version 3" "qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 1M" \
	-c length --image-opts driver=qcow2,lazy-refcounts=on,file.filename=v2.qcow2
alike "a VM state" "$both" -f qcow2 -c 'write -b -P 5 0 1k' -c 'read -b -P 5 0 1k' -c 'write -b -P 6 600M 64k' \
	-c 'read -b -P 6 600M 64k' -c 'read -b -P 0 300M 1k' -c 'write -b 1 512' -c 'write -b 512 1' -c 'read -b 0 7' \
	-c 'write -b -f 0 512' t.qcow2
alike "raw has no VM state" "$both" -f raw -c 'write -b 0 512' -c 'read -b 0 512' t.raw
alike "raw of any size" "$both" -f raw -c 'truncate 1000001' -c length t.raw
alike "zeros of any length, asynchronously" "qemu-img create -q -f qcow2 h.qcow2 8G" -c 'aio_write -z 0 3G' -c aio_flush \
	-c 'aio_write -z -u 1G 4G' -c aio_flush -c map -c 'aio_write -z 0 1T' -c aio_flush h.qcow2
alike "rv and wv are no commands" "$both" -c 'wv 0 512' -c 'rv 0 512' t.qcow2
alike "zeros have no registered buffer" "$both" -c 'write -z -r 0 512' -c 'aio_write -z -r 0 512' -c 'write -r 0 512' t.qcow2
alike "a pattern file with nothing to give" "$both" -c 'write -s pattern 0 0' -c 'write -s . 0 512' t.qcow2
alike "compressed writes of odd sectors" "$both" -c 'write -c 1 512' -c 'write -c 512 1' -c 'write -c 65M 64k' t.qcow2
alike "open: native aio without direct I/O" "$both" -c 'open -k t.raw' -c 'open -i native t.raw' -c 'open -n -k -o driver=raw t.raw' -c length
alike "native aio with no file" "" -k -c length
alike "shared, with changes in an overlay" "$both" -U -s -f qcow2 -c 'write -q 0 512' -c length t.qcow2
alike "read-only=on needs -r" "$both" --image-opts -c length driver=qcow2,file.filename=t.qcow2,read-only=on
alike "read-only=on and -r" "$both" -r --image-opts -c length driver=qcow2,file.filename=t.qcow2,read-only=on

# Both tools read the VM state that the other wrote.
qemu-img create -q -f qcow2 s.qcow2 64M
byre-io -c 'write -q -b -P 7 0 64k' -c 'write -q -b -P 8 700M 1M' s.qcow2
ok "the peer reads our VM state" qemu-io -c 'read -q -b -P 7 0 64k' -c 'read -q -b -P 8 700M 1M' s.qcow2
qemu-io -c 'write -q -b -P 9 1M 64k' s.qcow2
ok "we read the peer's" byre-io -c 'read -q -b -P 9 1M 64k' -c 'read -q -b -P 8 700M 1M' s.qcow2
ok "the peer's check finds nothing" qemu-img check -q s.qcow2
ok "ours neither" byre-img check -q s.qcow2

exits 1 "overlap checks have names" byre-io -c length --image-opts driver=qcow2,overlap-check=foo,file.filename=s.qcow2

# A prompt, with what is typed.
typed () {
	printf '%b' "$2" | qemu-io t.qcow2 2>&1 | normal >qemu.seen
	printf '%b' "$2" | byre-io t.qcow2 2>&1 | normal >byre.seen
	if diff -u qemu.seen byre.seen >seen.diff; then
		pass "$1"
	else
		fail "$1" "$(cat seen.diff)"
	fi
}
qemu-img create -q -f qcow2 t.qcow2 64M
typed "prompt: commands, mistakes, empty lines, quit" 'length\nnonsense\n\nread -P 3 0 512\nread 0 512\nquit\nlength\n'
typed "prompt: a last line without an end" 'length\nread 0 512'
typed "prompt: nothing" ''

done_testing

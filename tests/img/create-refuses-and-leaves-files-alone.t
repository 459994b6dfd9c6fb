#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: what is wrong with the arguments of create is said in a line, with the peer's exit
# status, before any file is touched; a file that create itself made does not stay behind.
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/img/peer.sh"

byre-img create -q -f raw base.raw 64k
echo precious >old

refused_alike "no name" create
refused_alike "no size" create new
refused_alike "no size for qcow2" create -f qcow2 new
refused_alike "nonsense for a size" create new 1x
refused_alike "an empty size" create new ''
refused_alike "a size that is too large" create new 16E
refused_alike "two sizes" create new 1M 2M
refused_alike "two sizes, one an option" create -f qcow2 -o size=1M new 1M
refused_alike "an unknown format" create -f nofmt new 1M
refused_alike "an unknown protocol" create -f qcow2 nosuch:new 1M
refused_alike "an unknown option" create -f qcow2 -o foo=bar new 1M
refused_alike "an option for another format" create -f raw -o cluster_size=4k new 1M
refused_alike "not a size" create -f qcow2 -o cluster_size=x new 1M
refused_alike "not a boolean" create -f qcow2 -o lazy_refcounts=maybe new 1M
refused_alike "not a number" create -f qcow2 -o refcount_bits=x new 1M
refused_alike "a cluster size that cannot be" create -f qcow2 -o cluster_size=3k new 1M
refused_alike "a refcount width that cannot be" create -f qcow2 -o refcount_bits=3 new 1M
refused_alike "no such version" create -f qcow2 -o compat=9 new 1M
refused_alike "no such compression" create -f qcow2 -o compression_type=x new 1M
refused_alike "no such preallocation" create -f qcow2 -o preallocation=x new 1M
refused_alike "zstd with version 2" create -f qcow2 -o compat=0.10,compression_type=zstd new 1M
refused_alike "extended L2 with small clusters" create -f qcow2 -o extended_l2=on,cluster_size=4k new 1M
refused_alike "an empty option list" create -f qcow2 -o '' new 1M
refused_alike "an option list that ends in a comma" create -f qcow2 -o cluster_size=4k, new 1M
refused_alike "a folder that is not there" create -f qcow2 no/new 1M
refused_alike "a disk too large for its clusters" create -f qcow2 new 1E
refused_alike "no backing file" create -f qcow2 -b nothere -F raw new
refused_alike "a backing file without its format" create -f qcow2 -b base.raw new
refused_alike "a backing file of an unknown format" create -f qcow2 -b base.raw -F foo new
refused_alike "a backing file with an empty name" create -f qcow2 -u -b '' -F raw new 1M
refused_alike "a backing file under raw" create -f raw -b base.raw -F raw new 1M
refused_alike "itself as backing file" create -f qcow2 -b base.raw -F raw base.raw
refused_alike "no passphrase" create -f luks new 1M
refused_alike "an object that is none" create --object foo new 1M
refused_alike "a secret without data" create --object secret,id=a new 1M
refused_alike "an unknown letter" create -z new 1M
refused_alike "an unknown word" create --nosuch new 1M
refused_alike "an option without its value" create -f

for o in foo=bar cluster_size=3k compat=9 refcount_bits=3 compression_type=x; do
	not_ok "$o over an existing file" byre-img create -q -f qcow2 -o $o old 1M
	is "$(cat old)" precious "$o: the file is as it was"
done
not_ok "a size that is too large over an existing file" byre-img create -q -f qcow2 old 1E
is "$(cat old)" precious "a size that is too large: the file is as it was"

not_ok "a passphrase that is not there" byre-img create -q -f qcow2 -o encrypt.format=luks,encrypt.key-secret=none old 1M
is "$(cat old)" precious "a passphrase that is not there: the file is as it was"
not_ok "a data file that is the image" byre-img create -q -f qcow2 -o data_file=./old old 1M
is "$(cat old)" precious "a data file that is the image: the file is as it was"

# What can only be found out too late: no half-made image stays.
not_ok "no folder for the data file" byre-img create -q -f qcow2 -o data_file=no/data old 1M
ok "no folder for the data file: nothing half-made stays" test ! -e old
echo precious >old
# A file may not grow beyond this (tmpfs takes any size). SIGXFSZ is ignored as nohup would SIGHUP.
limited () { (trap '' XFSZ; ulimit -f 2048; exec "$@"); }
not_ok "a size no file may have" limited byre-img create -q -f raw old 1G
ok "a size no file may have: nothing half-made stays" test ! -e old

# A backing file by another spelling, or further down, is still the backing file.
byre-img create -q -f qcow2 -b base.raw -F raw mid.qcow2
ln -s base.raw link.raw
cp base.raw kept.raw
for name in ./base.raw link.raw; do
	not_ok "itself as backing file: $name" byre-img create -q -f qcow2 -b $name -F raw base.raw
	not_ok "itself as backing file, unopened: $name" byre-img create -q -f qcow2 -u -b $name -F raw base.raw 1M
	not_ok "its data file as backing file: $name" byre-img create -q -f qcow2 -b $name -F raw -o data_file=base.raw new.qcow2
done
not_ok "below its backing file" byre-img create -q -f qcow2 -b mid.qcow2 -F qcow2 base.raw
same base.raw kept.raw "a backing file is as it was"

byre-img create -f qcow2 -o foo=bar new 1M 2>err
is "$(cat err)" "byre-img: new: Invalid parameter 'foo'" "messages begin with byre-img under its own name"
done_testing

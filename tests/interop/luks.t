#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: LUKS volumes are the same thing here, for qemu-img, and for cryptsetup.
# timeout: 300
. "$BYRE_SRC/tests/tap.sh"

printf correct-horse >pass
printf wrong-horse >wrong
secret='--object secret,id=s,file=pass'

# What a program tells of the volume, but for the name: qemu-img has options in it.
# shellcheck disable=SC2086 # words
facts () {
	info_json $1 $secret --image-opts $here 2>&1 | grep -v -e '"actual-size"' -e '"filename"'
}

if peer_at_least 8 0 && have qemu-io; then
	for pair in "byre qemu" "qemu byre"; do
		maker=${pair% *} other=${pair#* }
		for opts in "" ,cipher-alg=aes-128 ,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256 ,hash-alg=sha1 \
			,hash-alg=sha512,ivgen-alg=plain; do
			name="$maker makes, $other reads, options \"$opts\""
			here=driver=luks,key-secret=s,file.filename=this.luks
			rm -f this.luks
			# shellcheck disable=SC2086 # words
			{
				ok "$name: created" $maker-img create -q -f luks $secret -o "key-secret=s,iter-time=10$opts" this.luks 4M ||
					continue
				ok "$name: filled" $maker-io $secret --image-opts $here -c 'write -P 1 0 1M' -c 'write -P 2 1234567 100'
				ok "$name: read" $other-io $secret --image-opts $here -c 'read -P 1 0 1M' -c 'read -P 2 1234567 100' \
					-c 'read -P 0 2M 0'
				ok "$name: written" $other-io $secret --image-opts $here -c 'write -P 3 3M 1M'
				ok "$name: read back" $maker-io $secret --image-opts $here -c 'read -P 3 3M 1M'
				is "$(facts $other)" "$(facts $maker)" "$name: described alike"
			}
		done
	done
	not_ok "a wrong passphrase is refused" byre-io --object secret,id=s,file=wrong --image-opts \
		driver=luks,key-secret=s,file.filename=this.luks -c length
else
	skip "qemu-img's LUKS volumes" "no qemu-img and qemu-io of version 8 or later"
fi

if have cryptsetup; then
	# shellcheck disable=SC2086 # words
	ok "a volume for cryptsetup" byre-img create -q -f luks $secret -o key-secret=s,iter-time=10 our.luks 4M
	ok "cryptsetup knows our header" cryptsetup luksDump our.luks
	ok "cryptsetup opens our key slot" cryptsetup open --test-passphrase --key-file pass our.luks
	not_ok "cryptsetup refuses another passphrase" cryptsetup open --test-passphrase --key-file wrong our.luks
	truncate -s 20M their.luks
	for type in "--cipher aes-xts-plain64 --key-size 512" "--cipher aes-xts-plain64 --key-size 256" \
		"--cipher aes-cbc-essiv:sha256 --key-size 256"; do
		# shellcheck disable=SC2086 # words
		{
			ok "cryptsetup makes a volume: $type" cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 $type \
				--key-file pass their.luks || continue
			ok "it opens here: $type" byre-io $secret --image-opts driver=luks,key-secret=s,file.filename=their.luks \
				-c 'write -P 7 1M 64k' -c 'read -P 7 1M 64k'
			not_ok "not by another passphrase: $type" byre-io --object secret,id=s,file=wrong --image-opts \
				driver=luks,key-secret=s,file.filename=their.luks -c length
		}
	done
	if cryptsetup open --type luks1 --key-file pass their.luks byre-test-$$ 2>/dev/null; then
		ok "the kernel reads what was written here" byre-io -r -f raw -c 'read -P 7 1M 64k' /dev/mapper/byre-test-$$
		cryptsetup close byre-test-$$
	else
		skip "the kernel reads what was written here" "no device mapper"
	fi
else
	skip "cryptsetup's volumes" "cryptsetup is not installed"
fi

done_testing

#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# Goal: NBD over TLS, with certificates and with pre-shared keys: images live there too, and who has
# not the right ones gets nowhere.
# timeout: 120
. "$BYRE_SRC/tests/tap.sh"
. "$BYRE_SRC/tests/backends/servers.sh"
. "$BYRE_SRC/tests/backends/images.sh"
need nbd
have nbdkit certtool psktool || skip_all "nbdkit or gnutls-bin is not installed"
nbdkit --dump-config | grep -q tls=yes || skip_all "this nbdkit knows no TLS"
own_network "$@"

# certificate FOLDER WHOSE EXTRA-LINES: with a key, signed by that folder's authority.
certificate () {
	certtool --generate-privkey --key-type ecdsa --outfile "$1/$2-key.pem" 2>/dev/null
	printf 'cn = "%s"\norganization = "test"\nexpiration_days = 30\n%s\n' "$2" "$3" >template
	if [ "$2" = ca ]; then
		certtool --generate-self-signed --template template --load-privkey "$1/ca-key.pem" \
			--outfile "$1/ca-cert.pem" 2>/dev/null
	else
		certtool --generate-certificate --template template --load-privkey "$1/$2-key.pem" \
			--load-ca-certificate "$1/ca-cert.pem" --load-ca-privkey "$1/ca-key.pem" \
			--outfile "$1/$2-cert.pem" 2>/dev/null
	fi
}
for folder in pki other; do
	mkdir $folder
	certificate $folder ca 'ca
cert_signing_key'
	certificate $folder server 'tls_www_server
signing_key
dns_name = "localhost"
ip_address = "127.0.0.1"'
	certificate $folder client 'tls_www_client
signing_key'
done
[ -s pki/client-cert.pem ] || skip_all "certtool makes no certificates here"

truncate -s 128M nbd.img
kit () {
	nbdkit -f -i 127.0.0.1 "$@" file nbd.img >kit.log 2>&1 &
	server=$!
	wait_for tcp_up 10809 || skip_all "nbdkit does not start here: $(tail -n 2 kit.log)"
}
one_line () { is "$(wc -l <err)" 1 "$1: one line"; }

kit --tls=require --tls-certificates="$PWD/pki" --tls-verify-peer
place=driver=qcow2,file.driver=nbd,file.host=127.0.0.1
ok "certificates" byre-img create -q -f qcow2 "nbds://127.0.0.1/?tls-certificates=$PWD/pki" 64M
ok "by options" byre-io -c 'write -q -P 5 1M 3M' -c 'read -q -P 5 1M 3M' \
	--image-opts "$place,file.tls-certificates=$PWD/pki"
ok "sound" byre-img check -q "nbds://127.0.0.1/?tls-certificates=$PWD/pki"
not_ok "somebody else's" byre-img info --image-opts "$place,file.tls-certificates=$PWD/other"
one_line "somebody else's"
not_ok "none" byre-img info nbd://127.0.0.1/
one_line "none"
not_ok "no such folder" byre-img info --image-opts "$place,file.tls-certificates=$PWD/nowhere"
one_line "no such folder"

url () { echo "nbds://127.0.0.1/?tls-certificates=$PWD/pki"; }
restart_kit () { stop KILL; sleep 0.2; kit --tls=require --tls-certificates="$PWD/pki" --tls-verify-peer; }
under_load nbd "killed under load" restart_kit
stop

psktool -u vm -p keys >/dev/null 2>&1
psktool -u vm -p other.keys >/dev/null 2>&1
psktool -u else -p else.keys >/dev/null 2>&1
kit --tls=require --tls-psk="$PWD/keys"
ok "a pre-shared key" byre-img create -q -f qcow2 "nbds://vm@127.0.0.1/?tls-psk-file=$PWD/keys" 64M
ok "by options" byre-io -c 'write -q -P 5 1M 3M' -c 'read -q -P 5 1M 3M' \
	--image-opts "$place,file.tls-psk-file=$PWD/keys,file.tls-username=vm"
not_ok "another key" byre-img info --image-opts "$place,file.tls-psk-file=$PWD/other.keys,file.tls-username=vm"
one_line "another key"
unlike "$(cat err)" "$(sed 's/.*://' other.keys)" "another key: not told"
not_ok "another user" byre-img info --image-opts "$place,file.tls-psk-file=$PWD/else.keys,file.tls-username=else"
one_line "another user"
stop

done_testing

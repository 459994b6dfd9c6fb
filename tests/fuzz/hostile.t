#!/usr/bin/perl
# SPDX-License-Identifier: BSD-2-Clause
# timeout: 1200
#
# Goal: an image that lies is an error in words, never a crash, a hang, an eater of memory,
# or a change nobody asked for. Small good images get one field changed at a time to values
# that are too large, misaligned, overlapping, circular or cut off, and go through every
# command, those that only read first.

use strict;
use warnings;

my ($build, $src) = @ENV{ 'BYRE_BUILD', 'BYRE_SRC' };
my ($n, $failed) = (0, 0);
my $sanitized = `cat '$build/config.mk'` =~ /fsanitize/;

# A command may take this long and, without sanitizers, that much memory.
my ($seconds, $kilobytes) = ($sanitized ? 60 : 20, 1_000_000);

sub point {
	my ($good, $name, @why) = @_;
	$n++;
	print $good ? "ok" : "not ok", " $n - $name\n";
	return if $good;
	$failed++;
	print "# $_\n" for @why;
}

sub slurp {
	my ($name) = @_;
	open my $f, '<:raw', $name or die "$name: $!";
	local $/;
	my $text = <$f>;
	close $f;
	return $text // '';
}

sub spit {
	my ($name, $text) = @_;
	open my $f, '>:raw', $name or die "$name: $!";
	print $f $text;
	close $f or die "$name: $!";
}

# Runs a command; returns undef when it behaved, or what was wrong. The exit status is the
# program's own, and it is not 0 without a word on stderr.
sub misbehaves {
	my ($command) = @_;
	my $limit = $sanitized ? '' : "ulimit -v $kilobytes;";
	my $status = system "($limit exec timeout -k 5 $seconds $command) >out 2>err </dev/null";
	my $signal = $status & 127;
	my $exit = $status >> 8;
	my $err = slurp 'err';

	return "$command: killed by signal $signal: $err" if $signal;
	return "$command: took more than $seconds s" if $exit == 124 || $exit == 137;
	return "$command: exit status $exit: $err" if $exit > 63;
	return "$command: a sanitizer: $err" if $err =~ /Sanitizer|runtime error/;
	return "$command: failed without a word" if $exit == 1 && $err eq '' && -s 'out' == 0;
	return undef;
}

my @look = (
	'byre-img info --output=json bad', 'byre-img check bad', 'byre-img map --output=json bad',
	'byre-img snapshot -l bad', "byre-io -r -c 'read 0 64k' -c 'read 300k 64k' bad",
);
my @change = (
	"byre-io -c 'write 0 64k' -c 'discard 64k 64k' -c 'write -z 192k 64k' -c flush bad",
	'byre-img snapshot -c new bad', 'byre-img resize bad +1M', 'byre-img check -r all bad',
);

# Tries one bad image: looks must leave it as it was, changes must only behave.
sub try {
	my ($name, $image) = @_;
	my @wrong;
	my $convert = 'byre-img convert -O raw bad copy';

	spit 'bad', $image;
	for my $command (@look, length $image < 1_000_000 ? $convert : ()) {
		my $wrong = misbehaves $command;
		push @wrong, split /\n/, $wrong if defined $wrong;
		unlink 'copy';
	}
	push @wrong, 'a command that only reads changed the image' if slurp('bad') ne $image;
	for my $command (@change) {
		spit 'bad', $image;
		my $wrong = misbehaves $command;
		push @wrong, split /\n/, $wrong if defined $wrong;
	}
	point !@wrong, $name, @wrong;
}

# ---- good images ------------------------------------------------------------------------

sub make {
	my ($options, @more) = @_;
	unlink 'good';
	for my $command ("byre-img create -q -f qcow2 -o $options good 1M",
		"byre-io -f qcow2 -c 'write -P 1 0 100k' -c 'write -P 2 300k 100k' good", @more) {
		if (system "$command >out 2>&1") {
			point 0, "a good image is made", $command, slurp 'out';
			print "1..$n\n";
			exit 1;
		}
	}
	return slurp 'good';
}

my $snap = "byre-img snapshot -c one good && byre-io -f qcow2 -c 'write -P 3 0 20k' good";
my $image = make 'cluster_size=4k', $snap;
my $old = make 'cluster_size=4k,compat=0.10', $snap;
my $extended = make 'cluster_size=16k,extended_l2=on';
my $packed = do {
	make 'cluster_size=4k';
	system('byre-img convert -c -O qcow2 -o cluster_size=4k good packed') == 0 or die;
	slurp 'packed';
};

my %field = ( # offset, bytes
	version => [4, 4], backing_offset => [8, 8], backing_bytes => [16, 4], cluster_bits => [20, 4],
	size => [24, 8], crypt => [32, 4], l1_entries => [36, 4], l1_offset => [40, 8],
	reftable_offset => [48, 8], reftable_clusters => [56, 4], snapshots => [60, 4],
	snapshots_offset => [64, 8], incompatible => [72, 8], compatible => [80, 8],
	autoclear => [88, 8], refcount_order => [96, 4], header_bytes => [100, 4],
	extension_type => [104, 4], extension_bytes => [108, 4],
);

sub number {
	my ($text, $offset, $bytes) = @_;
	return unpack $bytes == 8 ? 'Q>' : 'N', substr $text, $offset, $bytes;
}
sub with {
	my ($text, $offset, $bytes, $value) = @_;
	my $packed = pack $bytes == 8 ? 'Q>' : 'N', $value;
	substr($text, $offset, $bytes) = $packed;
	return $text;
}

# ---- header -----------------------------------------------------------------------------

for my $name (sort { $field{$a}[0] <=> $field{$b}[0] } keys %field) {
	my ($offset, $bytes) = @{ $field{$name} };
	my $is = number $image, $offset, $bytes;
	my @values = (0, 1, 9, 22, 63, 0x1001, 0x7fffffff, 0xffffffff, $is + 1, $is + 4096);
	push @values, 1 << 55, 1 << 62, ~0, ~0 - 4095, length $image if $bytes == 8;
	my %seen = ($is => 1);
	for my $value (grep { !$seen{$_}++ && $_ <= ($bytes == 8 ? ~0 : 0xffffffff) } @values) {
		try sprintf("header %s = 0x%x", $name, $value), with($image, $offset, $bytes, $value);
	}
}
for my $name (qw(size l1_entries l1_offset reftable_offset snapshots_offset snapshots)) {
	my ($offset, $bytes) = @{ $field{$name} };
	for my $value (0, 1, 0x7fffffff, 0xffffffff) {
		try sprintf("version 2 header %s = 0x%x", $name, $value), with($old, $offset, $bytes, $value);
	}
}
# Both at once say that a table of that size is plausible.
try 'a huge disk with a huge L1',
	with(with($image, @{ $field{size} }, 1 << 60), @{ $field{l1_entries} }, 0x7fffffff);
try 'the largest refcount table', with($image, @{ $field{reftable_clusters} }, 0xffff);

# ---- tables -----------------------------------------------------------------------------

sub entries {
	my ($what, $text, $at, $step) = @_;
	my $l1 = number $text, 40, 8;
	my $reftable = number $text, 48, 8;
	my $is = number $text, $at, 8;
	my @values = (1, 0x200, 0x1000, $l1, $l1 | 1 << 63, $reftable | 1 << 63, $is ^ 1 << 63,
		$is + 0x200, $is | 1, $is | 2, 1 << 62, 1 << 62 | 0x12345, 3 << 62, ~0, ~0 << 9,
		(1 << 56) - 4096, 1 << 56, 1 << 63 | length $text, 1 << 63 | (length($text) + (1 << 40)));
	for my $value (@values) {
		try sprintf("%s = 0x%x", $what, $value), with($text, $at, 8, $value);
	}
}
sub offset_in {
	my ($text, $at) = @_;
	return number($text, $at, 8) & ((1 << 56) - 512);
}

my $l1 = number $image, 40, 8;
entries 'L1 entry', $image, $l1;
entries 'L2 entry', $image, offset_in($image, $l1);
my $reftable = number $image, 48, 8;
entries 'refcount table entry', $image, $reftable;
entries 'extended L2 entry', $extended, offset_in($extended, number $extended, 40, 8);
entries 'extended L2 bitmap', $extended, offset_in($extended, number $extended, 40, 8) + 8;
entries 'compressed L2 entry', $packed, offset_in($packed, number $packed, 40, 8);
my $refblock = offset_in $image, $reftable;
for my $value (0, 0xffffffff, 0x00020002, 0xffff0000) {
	for my $at (0, 4, 8, 16) {
		try sprintf("refcounts at %d = 0x%x", $at, $value), with($image, $refblock + $at, 4, $value);
	}
}

# ---- snapshots --------------------------------------------------------------------------

my $snapshots = number $image, 64, 8;
my @snapshot = (['L1 offset', 0, 8], ['L1 entries', 8, 4], ['id and name bytes', 12, 4],
	['VM state bytes', 32, 4], ['extra data bytes', 36, 4], ['extra data', 40, 8]);
for (@snapshot) {
	my ($what, $at, $bytes) = @$_;
	for my $value (0, 1, 0x1001, 0x7fffffff, 0xffffffff, $bytes == 8 ? (1 << 62, ~0, $l1) : ()) {
		try sprintf("snapshot %s = 0x%x", $what, $value), with($image, $snapshots + $at, $bytes, $value);
	}
}

# ---- cut and filled ---------------------------------------------------------------------

for my $bytes (0, 1, 4, 71, 72, 103, 104, 511, 512, 4095, 4096, 8192, 12288, $l1 + 1, length($image) / 2,
	length($image) - 1) {
	try "cut to $bytes bytes", substr $image, 0, $bytes;
}
for my $cluster (1 .. length($image) / 4096 - 1) {
	for my $byte (0, 0xff) {
		my $bad = $image;
		substr($bad, $cluster * 4096, 4096) = chr($byte) x 4096;
		try sprintf("cluster %d filled with 0x%02x", $cluster, $byte), $bad if $cluster < 12;
	}
}
{
	my $bad = $packed;
	my $at = offset_in($packed, number $packed, 40, 8);
	my $stream = number($packed, $at, 8) & (1 << 58) - 1;
	for my $byte (0, 0x55, 0xff) {
		substr($bad, $stream, 64) = chr($byte) x 64;
		try sprintf("compressed data is 0x%02x", $byte), $bad;
	}
}

# ---- names ------------------------------------------------------------------------------

# What an image calls its backing file is a plain path, and info opens nothing but the image.
sub backed_by {
	my ($name) = @_;
	my $bad = with($image, 8, 8, 0x200);
	$bad = with($bad, 16, 4, length $name);
	substr($bad, 0x200, length $name) = $name;
	return $bad;
}
spit 'victim', "secret\n" x 10000;
for my $name ('json:{"driver":"file","filename":"victim"}', 'file:victim', 'nbd://127.0.0.1:1/x',
	'host_device:/dev/zero', "fat:rw:.", 'bad', './bad', "a\nb", "\x01\xff", '/dev/full') {
	(my $shown = $name) =~ s/[^ -~]/?/g;
	try "backing file $shown", backed_by($name);
}
for my $name ('json:{"driver":"file","filename":"victim"}', 'file:victim') {
	spit 'bad', backed_by($name);
	my $status = system "byre-io -r -f qcow2 -c 'read 500k 1k' bad >out 2>err";
	point $status >> 8 == 1, "a backing file named $name is not opened", slurp('out'), slurp('err');
}

print "1..$n\n";
exit($failed ? 1 : 0);

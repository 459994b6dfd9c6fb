/* SPDX-License-Identifier: BSD-2-Clause */
/* Files that the guest is started from: what is none is refused, and one that got shorter is an error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/math.h"
#include "tests/unit/support_files.h"
#include "vmm/hostfile.h"

static void what_is_no_file_is_refused(void **state)
{
	const char *names[] = {
		scratch_path("nothing"), scratch_path("."), scratch_file("empty", 0)};
	const int codes[] = {ENOENT, EINVAL, EINVAL};

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		struct err err = ERR_INIT;
		struct hostfile f;

		assert_int_equal(hostfile_open(&f, names[i], &err), -codes[i]);
		assert_int_equal(f.fd, -1);
		assert_non_null(strstr(err.msg, names[i]));
	}
}

static void a_range_is_read_whole_or_not(void **state)
{
	const char *name = scratch_file("kernel", 3 * 4096);
	uint8_t buf[8192];
	struct err err = ERR_INIT;
	struct hostfile f;

	(void)state;
	assert_int_equal(hostfile_open(&f, name, &err), 0);
	assert_int_equal(f.bytes, 3 * 4096);
	memset(buf, 1, sizeof(buf));
	assert_int_equal(hostfile_read(&f, 4096, buf, sizeof(buf), &err), 0);
	for (size_t i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0);
	assert_int_equal(truncate(name, 2 * 4096), 0);
	assert_int_equal(hostfile_read(&f, 4096, buf, 4096, &err), 0);
	assert_int_equal(hostfile_read(&f, 4096, buf, 4097, &err), -EIO);
	assert_non_null(strstr(err.msg, "ends at 8192, and had 12288 bytes"));
	hostfile_close(&f);
	hostfile_close(&f);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_no_file_is_refused),
		cmocka_unit_test(a_range_is_read_whole_or_not),
	};

	return cmocka_run_group_tests_name("files of the host", tests, NULL, NULL);
}

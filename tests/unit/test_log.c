/* SPDX-License-Identifier: BSD-2-Clause */
/* Lines that somebody could have written for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/log.h"
#include "base/math.h"

static unsigned lines;
static char last[1024], before[1024];

static void count(enum log_level level, const char *line)
{
	(void)level;
	lines++;
	strcpy(before, last);
	strcpy(last, line);
}

static void as_many_as_can_be_read_are_written(void **state)
{
	struct log_bound mine = {0}, other = {0};

	(void)state;
	log_set_sink(count);
	for (unsigned i = 0; i < 100; i++)
		log_bounded(&mine, LOG_LEVEL_WARNING, "line %u", i);
	assert_int_equal(lines, 10);
	assert_string_equal(last, "line 9");
	log_bounded(&other, LOG_LEVEL_WARNING, "another's");
	assert_int_equal(lines, 11);
	mine.since_ns -= 10000000000ull; /* ten seconds ago */
	log_bounded(&mine, LOG_LEVEL_WARNING, "later");
	assert_string_equal(before, "(90 lines like the next were left out)");
	assert_string_equal(last, "later");
	log_bounded(&mine, LOG_LEVEL_WARNING, "and later");
	assert_int_equal(lines, 14);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_many_as_can_be_read_are_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The clock and CMOS memory of a PC (Motorola MC146818A): the host's time, in UTC, and 128
 * bytes, of which firmware reads how much memory there is. The clock cannot be set, and its
 * interrupts do not come: systems that run here have better timers.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/math.h"
#include "vmm/devices.h"

#define PORT       0x70
#define CMOS_BYTES 128

enum {
	SECONDS = 0x00,
	MINUTES = 0x02,
	HOURS = 0x04,
	WEEKDAY = 0x06,
	DAY = 0x07,
	MONTH = 0x08,
	YEAR = 0x09,
	STATUS_A = 0x0a,
	STATUS_B = 0x0b,
	STATUS_C = 0x0c,
	STATUS_D = 0x0d,
	CENTURY = 0x32,
	BOOT_ORDER = 0x3d,       /* SeaBIOS: the first two, of 2 = disk, 3 = CD */
	MEMORY_ABOVE_16M = 0x34, /* in 64 KiB, two bytes */
	MEMORY_ABOVE_4G = 0x5b,  /* in 64 KiB, three bytes */
	CPUS = 0x5f,             /* beside the first */
};
#define B_24_HOURS 0x02
#define B_BINARY   0x04
#define D_VALID    0x80

struct rtc {
	struct device device; /* first */
	pthread_mutex_t lock;
	uint8_t index;
	uint8_t cmos[CMOS_BYTES];
};

static uint8_t clock_value(const struct rtc *r, unsigned value)
{
	return (uint8_t)(r->cmos[STATUS_B] & B_BINARY ? value
						      : value / 10 << 4 | value % 10);
}

static uint8_t hours_of(const struct rtc *r, const struct tm *tm)
{
	unsigned hour = (unsigned)tm->tm_hour;

	if (r->cmos[STATUS_B] & B_24_HOURS)
		return clock_value(r, hour);
	return clock_value(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? 0x80 : 0);
}

static uint8_t read_register(const struct rtc *r)
{
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	switch (r->index) {
	case SECONDS:
		return clock_value(r, MIN((unsigned)tm.tm_sec, 59u));
	case MINUTES:
		return clock_value(r, (unsigned)tm.tm_min);
	case HOURS:
		return hours_of(r, &tm);
	case WEEKDAY:
		return clock_value(r, (unsigned)tm.tm_wday + 1);
	case DAY:
		return clock_value(r, (unsigned)tm.tm_mday);
	case MONTH:
		return clock_value(r, (unsigned)tm.tm_mon + 1);
	case YEAR:
		return clock_value(r, (unsigned)tm.tm_year % 100);
	case CENTURY:
		return clock_value(r, (unsigned)(tm.tm_year + 1900) / 100);
	case STATUS_C: /* no interrupt is pending */
		return 0;
	default:
		return r->cmos[r->index];
	}
}

static uint64_t rtc_read(void *dev, uint64_t offset, unsigned bytes)
{
	struct rtc *r = dev;
	uint8_t value;

	(void)bytes;
	if (offset == 0)
		return 0xff;
	pthread_mutex_lock(&r->lock);
	value = read_register(r);
	pthread_mutex_unlock(&r->lock);
	return value;
}

static void rtc_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	struct rtc *r = dev;

	(void)bytes;
	pthread_mutex_lock(&r->lock);
	if (offset == 0)
		r->index = value & (CMOS_BYTES - 1);
	else if (r->index == STATUS_A || r->index == STATUS_B || r->index > STATUS_D)
		r->cmos[r->index] = (uint8_t)value;
	pthread_mutex_unlock(&r->lock);
}

static const struct bus_ops rtc_bus = {rtc_read, rtc_write};

static void rtc_reset(struct device *d)
{
	struct rtc *r = (struct rtc *)d;

	r->index = 0;
	r->cmos[STATUS_A] = 0x26;
	r->cmos[STATUS_B] = B_24_HOURS;
	r->cmos[STATUS_D] = D_VALID;
}

static void rtc_state(struct device *d, struct state *s, unsigned version)
{
	struct rtc *r = (struct rtc *)d;

	(void)version;
	state_u8(s, &r->index);
	r->index &= CMOS_BYTES - 1;
	state_bytes(s, r->cmos, sizeof(r->cmos));
}

static void rtc_free(struct device *d)
{
	struct rtc *r = (struct rtc *)d;

	pthread_mutex_destroy(&r->lock);
	free(r);
}

static const struct device_ops rtc_ops = {
	.name = "rtc",
	.reset = rtc_reset,
	.version = 1,
	.state = rtc_state,
	.free = rtc_free,
};

static void put_units(struct rtc *r, unsigned at, unsigned bytes, uint64_t memory)
{
	for (unsigned i = 0; i < bytes; i++)
		r->cmos[at + i] = (uint8_t)(memory >> 16 >> 8 * i);
}

static void describe_memory(struct rtc *r, const struct vm *vm)
{
	uint64_t low = vm->memory.region[0].bytes;
	uint64_t above_16m = low > 16 * MiB ? low - 16 * MiB : 0;

	put_units(r, MEMORY_ABOVE_16M, 2, MIN(above_16m, 0xffffull << 16));
	put_units(r, MEMORY_ABOVE_4G, 3, memory_bytes(&vm->memory) - low);
	r->cmos[BOOT_ORDER] = 0x32;
	r->cmos[CPUS] = (uint8_t)(vm->cpus - 1);
}

int rtc_new(struct vm *vm, struct err *err)
{
	struct rtc *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return err_errno(err, ENOMEM, "rtc");
	r->device.ops = &rtc_ops;
	pthread_mutex_init(&r->lock, NULL);
	describe_memory(r, vm);
	ret = bus_add(&vm->pio, PORT, 2, &rtc_bus, r);
	if (ret) {
		rtc_free(&r->device);
		return err_errno(err, -ret, "rtc");
	}
	vm_add_device(vm, &r->device);
	return 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A 16550A UART (National Semiconductor PC16550D): the serial console. What is sent goes out
 * at once, so the transmitter is always empty; what comes in waits in a FIFO.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "vmm/devices.h"

#define PORT 0x3f8
#define LINE 4
#define FIFO 1024u /* larger than the chip's, so that pasted text fits */

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCRATCH };
#define IER_RECEIVED 0x01
#define IER_EMPTY    0x02
#define IIR_NONE     0x01
#define IIR_EMPTY    0x02
#define IIR_RECEIVED 0x04
#define IIR_FIFO     0xc0
#define LCR_DIVISOR  0x80
#define MCR_LOOP     0x10
#define MCR_OUT2     0x08 /* gates the interrupt */
#define LSR_DATA     0x01
#define LSR_EMPTY    0x60
#define MSR_READY    0xb0 /* carrier, data set ready, clear to send */

struct serial {
	struct device device; /* first */
	struct vm *vm;
	struct chardev *chardev;
	pthread_mutex_t lock;
	uint8_t ier, lcr, mcr, scratch, divisor[2];
	bool fifo_on;
	bool empty_pending; /* the transmitter became empty, which was not told yet */
	uint8_t in[FIFO];
	unsigned first, n;
	bool high;
};

/* ---- the interrupt; the lock is held --------------------------------------------- */

static unsigned cause(const struct serial *s)
{
	if ((s->ier & IER_RECEIVED) && s->n)
		return IIR_RECEIVED;
	if ((s->ier & IER_EMPTY) && s->empty_pending)
		return IIR_EMPTY;
	return IIR_NONE;
}

static void update(struct serial *s)
{
	bool high = cause(s) != IIR_NONE && (s->mcr & MCR_OUT2);

	if (high != s->high)
		vm_set_irq(s->vm, LINE, high);
	s->high = high;
}

/* ---- bytes ----------------------------------------------------------------------- */

static void put(struct serial *s, uint8_t c)
{
	if (s->n == FIFO)
		return;
	s->in[(s->first + s->n++) % FIFO] = c;
}

static uint8_t take(struct serial *s)
{
	uint8_t c = 0;

	if (s->n == FIFO)
		chardev_ready(s->chardev);
	if (s->n) {
		c = s->in[s->first];
		s->first = (s->first + 1) % FIFO;
		s->n--;
	}
	return c;
}

/* The lock is not held while somebody is waited for who reads: what is typed meanwhile is taken, and the keys that
 * are for us are heard. */
static void send(struct serial *s, uint8_t c)
{
	if (s->mcr & MCR_LOOP) {
		put(s, c);
	} else {
		pthread_mutex_unlock(&s->lock);
		chardev_put(s->chardev, c, s->vm);
		pthread_mutex_lock(&s->lock);
	}
	s->empty_pending = true;
}

static void empty(struct serial *s)
{
	s->first = s->n = 0;
	chardev_ready(s->chardev);
}

/* Of what somebody typed, as much as there is room for. */
static unsigned receive(void *front, const uint8_t *data, unsigned bytes)
{
	struct serial *s = front;
	unsigned n;

	pthread_mutex_lock(&s->lock);
	n = MIN(bytes, FIFO - s->n);
	for (unsigned i = 0; i < n; i++)
		put(s, data[i]);
	update(s);
	pthread_mutex_unlock(&s->lock);
	return n;
}

/* ---- registers ------------------------------------------------------------------- */

static uint8_t read_register(struct serial *s, unsigned reg)
{
	uint8_t value;

	switch (reg) {
	case DATA:
		return s->lcr & LCR_DIVISOR ? s->divisor[0] : take(s);
	case IER:
		return s->lcr & LCR_DIVISOR ? s->divisor[1] : s->ier;
	case IIR:
		value = (uint8_t)cause(s);
		if (value == IIR_EMPTY)
			s->empty_pending = false;
		return value | (s->fifo_on ? IIR_FIFO : 0);
	case LCR:
		return s->lcr;
	case MCR:
		return s->mcr;
	case LSR:
		return LSR_EMPTY | (s->n ? LSR_DATA : 0);
	case MSR:
		if (!(s->mcr & MCR_LOOP))
			return MSR_READY;
		/* Its own outputs come back: DTR, RTS, OUT1, OUT2. */
		return (uint8_t)((s->mcr & 1) << 5 | (s->mcr & 2) << 3 |
				 (s->mcr & 4) << 4 | (s->mcr & 8) << 4);
	default:
		return s->scratch;
	}
}

static void write_register(struct serial *s, unsigned reg, uint8_t value)
{
	switch (reg) {
	case DATA:
		if (s->lcr & LCR_DIVISOR)
			s->divisor[0] = value;
		else
			send(s, value);
		break;
	case IER:
		if (s->lcr & LCR_DIVISOR) {
			s->divisor[1] = value;
			break;
		}
		/* It is empty when somebody begins to ask. */
		if (~s->ier & value & IER_EMPTY)
			s->empty_pending = true;
		s->ier = value & 0xf;
		break;
	case IIR: /* written it is the FIFO control register */
		s->fifo_on = value & 1;
		if (value & 2)
			empty(s);
		break;
	case LCR:
		s->lcr = value;
		break;
	case MCR:
		s->mcr = value & 0x1f;
		break;
	case SCRATCH:
		s->scratch = value;
		break;
	default:
		break;
	}
}

static uint64_t serial_read(void *dev, uint64_t offset, unsigned bytes)
{
	struct serial *s = dev;
	uint8_t value;

	(void)bytes;
	pthread_mutex_lock(&s->lock);
	value = read_register(s, (unsigned)offset);
	update(s);
	pthread_mutex_unlock(&s->lock);
	return value;
}

static void serial_write(void *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
	struct serial *s = dev;

	(void)bytes;
	pthread_mutex_lock(&s->lock);
	write_register(s, (unsigned)offset, (uint8_t)value);
	update(s);
	pthread_mutex_unlock(&s->lock);
}

static const struct bus_ops serial_bus = {serial_read, serial_write};

/* ---- life ------------------------------------------------------------------------ */

static void serial_reset(struct device *d)
{
	struct serial *s = (struct serial *)d;

	pthread_mutex_lock(&s->lock);
	s->ier = s->lcr = s->mcr = s->scratch = 0;
	s->divisor[0] = 12; /* 9600 */
	s->divisor[1] = 0;
	s->fifo_on = s->empty_pending = false;
	empty(s);
	update(s);
	pthread_mutex_unlock(&s->lock);
}

static void serial_state(struct device *d, struct state *st, unsigned version)
{
	struct serial *s = (struct serial *)d;
	uint32_t first = s->first, n = s->n;

	(void)version;
	state_u8(st, &s->ier);
	state_u8(st, &s->lcr);
	state_u8(st, &s->mcr);
	state_u8(st, &s->scratch);
	state_bytes(st, s->divisor, sizeof(s->divisor));
	state_bool(st, &s->fifo_on);
	state_bool(st, &s->empty_pending);
	state_bytes(st, s->in, sizeof(s->in));
	state_u32(st, &first);
	state_u32(st, &n);
	if (state_check(st, first < FIFO && n <= FIFO, "more waits than there is room")) {
		s->first = first;
		s->n = n;
	}
	update(s);
}

static void serial_free(struct device *d)
{
	struct serial *s = (struct serial *)d;

	pthread_mutex_destroy(&s->lock);
	free(s);
}

static const struct device_ops serial_ops = {
	.name = "serial",
	.reset = serial_reset,
	.version = 1,
	.state = serial_state,
	.free = serial_free,
};

int serial_new(
	struct vm *vm, struct chardev *chardev, struct serial **out, struct err *err)
{
	struct serial *s = calloc(1, sizeof(*s));
	int ret;

	if (!s)
		return err_errno(err, ENOMEM, "serial");
	s->device.ops = &serial_ops;
	s->vm = vm;
	s->chardev = chardev;
	pthread_mutex_init(&s->lock, NULL);
	ret = bus_add(&vm->pio, PORT, 8, &serial_bus, s);
	if (ret) {
		serial_free(&s->device);
		return err_errno(err, -ret, "serial");
	}
	chardev_attach(chardev, receive, s);
	vm_add_device(vm, &s->device);
	*out = s;
	return 0;
}

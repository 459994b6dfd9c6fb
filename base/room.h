/* SPDX-License-Identifier: BSD-2-Clause */
/* Buffers that grow as they are filled: twice the room each time, so that filling one costs no more
 * than its length. */
#ifndef BYRE_BASE_ROOM_H
#define BYRE_BASE_ROOM_H

#include <stdlib.h>

#define ROOM_LEAST ((size_t)4096)

/* The buffer (NULL with *room 0: none yet) with room for so many bytes, from malloc. NULL where there is
 * no memory, or it would have more than `most`: then the old one stays, as it is. */
static inline void *room_grow(void *buffer, size_t *room, size_t bytes, size_t most)
{
	size_t more = *room > ROOM_LEAST ? *room : ROOM_LEAST;

	while (more < bytes)
		more *= 2;
	if (more == *room)
		return buffer;
	buffer = more > most ? NULL : realloc(buffer, more);
	if (buffer)
		*room = more;
	return buffer;
}

#endif

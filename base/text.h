/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Text from elsewhere, made fit to be shown. Names come out of images and from other
 * processes: a newline in one could make a second line that looks like ours, an escape
 * sequence could tell the terminal anything.
 */
#ifndef BYRE_BASE_TEXT_H
#define BYRE_BASE_TEXT_H

/* Makes each byte of a control character a '?', in place: U+0001 to U+001F, U+007F and, as
 * UTF-8, U+0080 to U+009F. All else stays, so that the length does. */
void text_clean(char *text);
/* Takes passwords out of URLs, in place: "x://user%password@host" and "x://user:password@host"
 * become "x://user@host". */
void text_hide_passwords(char *text);

#endif

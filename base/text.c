/* SPDX-License-Identifier: BSD-2-Clause */
/* Text made fit to be shown; see text.h. */
#include "base/text.h"

#include <string.h>

void text_clean(char *text)
{
	for (unsigned char *p = (unsigned char *)text; *p; p++) {
		if (*p < 0x20 || *p == 0x7f) {
			*p = '?';
		} else if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) {
			/* U+009B is as good as ESC [ to some terminals. 0xc2 begins a
			 * character wherever it stands. */
			p[0] = p[1] = '?';
		}
	}
}

void text_hide_passwords(char *text)
{
	while ((text = strstr(text, "://")) != NULL) {
		char *at, *password;

		text += strlen("://");
		at = text + strcspn(text, "@/'\" ");
		password = text + strcspn(text, "%:");
		if (*at == '@' && password < at)
			memmove(password, at, strlen(at) + 1);
	}
}

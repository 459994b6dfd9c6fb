/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Names: which driver a file name means, and what a name found inside an image may mean.
 *
 * A name is "scheme:rest" where a colon comes before any slash, else a path. Paths are
 * for the driver that has the scheme "file". Names inside images come from whoever made
 * the image: they are paths and nothing else, unless the user says that they are trusted.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "block/gate.h"

#define PATH_SCHEME "file"

/* Bytes of the scheme before the colon; 0 where the name is a path. */
static size_t scheme_len(const char *name)
{
	size_t n = strcspn(name, ":/");

	return name[n] == ':' ? n : 0;
}

const struct blk_driver *blk_driver_find(const char *name)
{
	for (size_t i = 0; blk_drivers[i]; i++)
		if (!strcmp(blk_drivers[i]->name, name))
			return blk_drivers[i];
	return NULL;
}

static bool has_scheme(const struct blk_driver *drv, const char *scheme, size_t len)
{
	for (const char *const *s = drv->schemes; s && *s; s++)
		if (strlen(*s) == len && !strncmp(*s, scheme, len))
			return true;
	return false;
}

const struct blk_driver *blk_driver_for_name(const char *filename)
{
	size_t len = scheme_len(filename);
	const char *scheme = len ? filename : PATH_SCHEME;

	if (!len)
		len = strlen(PATH_SCHEME);
	for (size_t i = 0; blk_drivers[i]; i++)
		if (has_scheme(blk_drivers[i], scheme, len))
			return blk_drivers[i];
	return NULL;
}

const char *blk_name_rest(const struct blk_driver *drv, const char *filename)
{
	size_t len = scheme_len(filename);

	return len && has_scheme(drv, filename, len) ? filename + len + 1 : filename;
}

bool blk_name_is_path(const char *name)
{
	return scheme_len(name) == 0;
}

/* Length of the part of an image's name that stands for its folder. -1: it has none that
 * a name could be put behind (nbd://host: the next word would be a host). */
static ssize_t folder_len(const char *image)
{
	size_t scheme = scheme_len(image);
	size_t start = scheme ? scheme + 1 : 0;
	size_t end = start + strcspn(image + start, scheme ? "?#" : "");

	if (scheme && !strncmp(image + start, "//", 2)) {
		start += 2;
		start += strcspn(image + start, "/");
		if (start >= end)
			return -1;
		start++;
	}
	while (end > start && image[end - 1] != '/')
		end--;
	return (ssize_t)end;
}

static int refuse(struct err *err, const char *name, const char *why)
{
	err_set(err, EPERM, "The image names '%s', which is %s: refused", name, why);
	err_hint(err,
		"Say with options what to open instead (backing.file.filename=...).");
	return -EPERM;
}

int blk_resolve_name(
	const char *image, const char *name, bool trusted, char **out, struct err *err)
{
	bool path = blk_name_is_path(name), relative = path && name[0] != '/';
	ssize_t folder = relative ? folder_len(image) : 0;

	if (!path && !trusted)
		return refuse(err, name, "not a plain path");
	if (relative && !blk_name_is_path(image)) {
		if (folder < 0)
			return refuse(
				err, name, "relative to an image that is in no folder");
		if (!trusted && strpbrk(name, "?#"))
			return refuse(err, name, "not a plain path");
	}
	*out = malloc((size_t)folder + strlen(name) + 1);
	if (!*out)
		return err_errno(err, ENOMEM, "%s", name);
	memcpy(*out, image, (size_t)folder);
	strcpy(*out + folder, name);
	return 0;
}

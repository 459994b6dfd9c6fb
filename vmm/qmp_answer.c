/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From the text of a command to its answer: what it says is checked against the table of
 * commands before any of them sees it.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/qmp_impl.h"

/* ---- answers --------------------------------------------------------------------- */

struct json *qmp_error(const char *class, const char *text)
{
	struct json *all = json_new_object(), *e = json_new_object();

	json_put_string(e, "class", class);
	json_put_string(e, "desc", text);
	json_put(all, "error", e);
	return all;
}

struct json *qmp_version(void)
{
	unsigned major = 0, minor = 0, micro = 0;
	struct json *v = json_new_object();

	sscanf(BYRE_VERSION, "%u.%u.%u", &major, &minor, &micro);
	json_put_int(v, "micro", micro);
	json_put_int(v, "minor", minor);
	json_put_int(v, "major", major);
	return v;
}

int qmp_fail(struct qmp_call *c, const char *class, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	c->class = class;
	return err_set(&c->err, EINVAL, "%s", text);
}

/* ---- arguments ------------------------------------------------------------------- */

static const struct json *argument(const struct qmp_call *c, const char *name)
{
	return c->args ? json_get(c->args, name) : NULL;
}

const char *qmp_string(const struct qmp_call *c, const char *name)
{
	const struct json *v = argument(c, name);

	return v ? json_string_of(v) : NULL;
}

int64_t qmp_int(const struct qmp_call *c, const char *name, int64_t dflt)
{
	const struct json *v = argument(c, name);

	return v ? json_int_of(v) : dflt;
}

bool qmp_bool(const struct qmp_call *c, const char *name, bool dflt)
{
	const struct json *v = argument(c, name);

	return v ? json_bool_of(v) : dflt;
}

/* What the table says of an argument. */
struct rule {
	char name[40];
	bool optional;
	char type;
};

/* The next rule of the table's text; false at its end. */
static bool next_rule(const char **p, struct rule *r)
{
	int used = 0;

	*r = (struct rule){.type = 0};
	if (sscanf(*p, " %39[^:? ]%n", r->name, &used) != 1)
		return false;
	*p += used;
	r->optional = *(*p)++ == '?';
	r->type = *(*p)++;
	return true;
}

static const char *type_name(char type)
{
	switch (type) {
	case 's':
		return "a string";
	case 'i':
		return "an integer";
	case 'b':
		return "true or false";
	case 'l':
		return "a list";
	default:
		return "an object";
	}
}

static bool has_type(const struct json *v, char type)
{
	switch (json_kind_of(v)) {
	case JSON_STRING:
		return type == 's';
	case JSON_INT:
		return type == 'i';
	case JSON_BOOL:
		return type == 'b';
	case JSON_ARRAY:
		return type == 'l';
	case JSON_OBJECT:
		return type == 'o';
	default:
		return false;
	}
}

static int check_rules(struct qmp_call *c, const char *rules)
{
	struct rule r;

	while (next_rule(&rules, &r)) {
		const struct json *v = argument(c, r.name);

		if (!v && !r.optional)
			return err_set(
				&c->err, EINVAL, "argument '%s' is missing", r.name);
		if (v && !has_type(v, r.type))
			return err_set(&c->err, EINVAL, "argument '%s' is to be %s",
				r.name, type_name(r.type));
	}
	return 0;
}

struct unknown {
	const char *rules;
	struct err *err;
};

static int is_known(const char *key, const struct json *v, void *arg)
{
	const struct unknown *u = arg;
	const char *rules = u->rules;
	struct rule r;

	(void)v;
	while (next_rule(&rules, &r))
		if (!strcmp(r.name, key))
			return 0;
	return err_set(u->err, EINVAL, "argument '%s' is not known", key);
}

static int check_arguments(struct qmp_call *c, const char *rules)
{
	struct unknown u = {rules, &c->err};
	int ret;

	if (!rules)
		return 0;
	ret = c->args ? json_object_each(c->args, is_known, &u) : 0;
	return ret ? ret : check_rules(c, rules);
}

/* ---- commands -------------------------------------------------------------------- */

static const struct qmp_command *find_command(const char *name)
{
	const struct qmp_command *c = qmp_commands;

	while (c->name && strcmp(c->name, name) != 0)
		c++;
	return c->name ? c : NULL;
}

static int check_member(const char *key, const struct json *v, void *arg)
{
	struct qmp_call *c = arg;

	if (!strcmp(key, "id"))
		return 0;
	if (!strcmp(key, "execute") && json_kind_of(v) == JSON_STRING)
		return 0;
	if (!strcmp(key, "arguments") && json_kind_of(v) == JSON_OBJECT)
		return 0;
	return err_set(&c->err, EINVAL, "member '%s' is not known, or no %s", key,
		!strcmp(key, "execute") ? "string" : "object");
}

/* A list of what there is none of. */
static int negotiate(struct qmp_call *c, bool *negotiated)
{
	const struct json *list = c->args ? json_get(c->args, "enable") : NULL;

	if (*negotiated)
		return qmp_fail(
			c, "CommandNotFound", "capabilities were negotiated already");
	if (check_arguments(c, "enable?l"))
		return -EINVAL;
	if (list && json_array_len(list))
		return err_set(&c->err, EINVAL, "there are no capabilities to enable");
	*negotiated = true;
	return 0;
}

static int run(struct qmp_call *c, const struct json *command, bool *negotiated)
{
	const struct json *execute = json_get(command, "execute");
	const struct qmp_command *entry;
	const char *name;
	int ret;

	if (!execute)
		return err_set(&c->err, EINVAL, "member 'execute' is missing");
	ret = json_object_each(command, check_member, c);
	if (ret)
		return ret;
	name = json_string_of(execute);
	c->args = json_get(command, "arguments");
	if (!strcmp(name, "qmp_capabilities"))
		return negotiate(c, negotiated);
	if (!*negotiated)
		return qmp_fail(c, "CommandNotFound",
			"capabilities have to be negotiated first (qmp_capabilities)");
	entry = find_command(name);
	if (!entry)
		return qmp_fail(c, "CommandNotFound", "there is no command '%s'", name);
	ret = check_arguments(c, entry->args);
	return ret ? ret : entry->run(c);
}

/* Carries it out. */
static struct json *answer(
	struct qmp_call *c, const struct json *command, bool *negotiated)
{
	struct json *all;

	if (json_kind_of(command) != JSON_OBJECT)
		return qmp_error("GenericError", "a command is an object");
	if (run(c, command, negotiated)) {
		json_free(c->result);
		all = qmp_error(c->class, c->err.msg);
	} else {
		all = json_new_object();
		json_put(all, "return", c->result ? c->result : json_new_object());
	}
	if (json_get(command, "id"))
		json_put(all, "id", json_dup(json_get(command, "id")));
	return all;
}

struct json *qmp_answer(struct qmp *q, const char *text, bool *negotiated)
{
	struct qmp_call c = {.q = q, .class = "GenericError", .err = ERR_INIT};
	struct json *command = json_parse(text, &c.err), *all;

	if (!command)
		return qmp_error("GenericError", c.err.msg);
	all = answer(&c, command, negotiated);
	json_free(command);
	return all;
}

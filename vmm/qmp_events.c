/* SPDX-License-Identifier: BSD-2-Clause */
/* What the machine tells becomes events. */
#include <stdio.h>
#include <string.h>

#include "vmm/qmp_impl.h"

/* ---- of the machine -------------------------------------------------------------- */

static bool by_guest(enum vm_request why)
{
	return why == VM_RESET || why == VM_POWER_OFF;
}

static const char *reason(struct qmp *q, enum vm_request why)
{
	switch (why) {
	case VM_RESET:
		return "guest-reset";
	case VM_RESET_OWNER:
		return "host-qmp-system-reset";
	case VM_POWER_OFF:
		return "guest-shutdown";
	case VM_FAILED:
		return "host-error";
	default:
		return __atomic_load_n(&q->quit_asked, __ATOMIC_RELAXED) ? "host-qmp-quit"
									 : "host-signal";
	}
}

void qmp_vm_event(void *arg, enum vm_event event, enum vm_request why)
{
	static const char *const names[] = {
		[VM_EVENT_STOP] = "STOP",
		[VM_EVENT_RESUME] = "RESUME",
		[VM_EVENT_RESET] = "RESET",
		[VM_EVENT_POWERDOWN] = "POWERDOWN",
		[VM_EVENT_SHUTDOWN] = "SHUTDOWN",
	};
	struct json *data = NULL;
	struct qmp *q = arg;

	if (event == VM_EVENT_RESET || event == VM_EVENT_SHUTDOWN) {
		data = json_new_object();
		json_put_bool(data, "guest", by_guest(why));
		json_put_string(data, "reason", reason(q, why));
	}
	qmp_event(q, names[event], data);
}

/* ---- of disks -------------------------------------------------------------------- */

#define PATH_BYTES (sizeof(QMP_PERIPHERAL) + DISK_ID_MAX)

static const char *path_of(const char *id, char *path)
{
	snprintf(path, PATH_BYTES, QMP_PERIPHERAL "%s", id);
	return path;
}

void qmp_disk_failed(void *arg, const struct disk_failure *f)
{
	struct json *data = json_new_object();
	char path[PATH_BYTES];

	json_put_string(data, "device", f->disk->id);
	json_put_string(data, "node-name", f->disk->node);
	json_put_string(data, "qom-path", path_of(f->disk->id, path));
	json_put_string(data, "operation", f->kind == DISK_READ ? "read" : "write");
	json_put_string(data, "action", disk_policy_names[f->action]);
	json_put_bool(data, "nospace", f->error == ENOSPC || f->error == EDQUOT);
	json_put_string(data, "reason", strerror(f->error));
	qmp_event(arg, "BLOCK_IO_ERROR", data);
}

void qmp_device_deleted(struct qmp *q, const char *id)
{
	struct json *data = json_new_object();
	char path[PATH_BYTES];

	json_put_string(data, "device", id);
	json_put_string(data, "path", path_of(id, path));
	qmp_event(q, "DEVICE_DELETED", data);
}

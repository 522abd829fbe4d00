/* SPDX-License-Identifier: MIT */
/* Any text as /proc/PID/maps. What is accepted must be in order. */
#include <stdlib.h>
#include <string.h>

#include "elfsym/procmaps.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	char *text = malloc(size + 1);
	struct procmaps pm;
	struct uerr *err;

	memcpy(text, data, size);
	text[size] = '\0';
	err = procmaps_parse(text, &pm);
	free(text);
	if (err) {
		uerr_free(err);
		return 0;
	}
	for (size_t i = 0; i < pm.n; i++)
		if (procmaps_find(&pm, pm.maps[i].start) != &pm.maps[i] || strlen(pm.maps[i].path) > size)
			__builtin_trap();
	procmaps_deinit(&pm);
	return 0;
}

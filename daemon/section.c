/* SPDX-License-Identifier: MIT */
/* Section names; see section.h. */
#include "daemon/section.h"

#include <stdio.h>
#include <string.h>

static const struct {
	const char *name;
	enum probe_side side;
} kinds[] = {
	{ "uprobe", SIDE_ENTRY },          { "uprobe.s", SIDE_ENTRY },      { "uprobe.multi", SIDE_ENTRY },
	{ "uprobe.multi.s", SIDE_ENTRY },  { "uretprobe", SIDE_EXIT },      { "uretprobe.s", SIDE_EXIT },
	{ "uretprobe.multi", SIDE_EXIT },  { "uretprobe.multi.s", SIDE_EXIT }, { "usdt", SIDE_ENTRY },
	{ "usdt.s", SIDE_ENTRY },
};

void section_parse(const char *name, struct section *ret)
{
	const char *slash = strchr(name, '/');
	size_t len = slash ? (size_t)(slash - name) : strlen(name);

	*ret = (struct section){};
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (strlen(kinds[i].name) != len || memcmp(kinds[i].name, name, len))
			continue;
		ret->side = kinds[i].side;
		if (slash && slash[1])
			snprintf(ret->spec, sizeof(ret->spec), "%s:%s",
				 !strncmp(name, "usdt", 4) ? "usdt" : ret->side == SIDE_EXIT ? "uretprobe" : "uprobe",
				 slash + 1);
	}
}

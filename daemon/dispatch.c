/* SPDX-License-Identifier: MIT */
/*
 * From a message to its handler. The table says what each method takes; a
 * handler may rely on types and on what is not optional being there. Parameters
 * that the table does not know are refused, so that a misspelt one is not
 * silently ignored.
 */
#include "daemon/dispatch.h"

#include <math.h>
#include <string.h>

enum arg_type {
	ARG_END,
	ARG_STRING,
	ARG_INT,     /* fits 32 bits, not negative */
	ARG_U64,     /* text or number */
	ARG_BOOL,
	ARG_STRINGS,
	ARG_INTS,
	ARG_OBJECT,
	ARG_OBJECTS,
};

struct arg {
	const char *name;
	enum arg_type type;
	bool optional;
};

struct command {
	const char *name;
	void (*handler)(struct request *req);
	struct arg args[10];
};

static void get_info(struct request *req);
static void get_interface_description(struct request *req);

static const struct command service_commands[] = {
	{ "GetInfo", get_info, {} },
	{ "GetInterfaceDescription", get_interface_description, { { "interface", ARG_STRING } } },
};

static const struct command commands[] = {
	{ "GetStatus", cmd_get_status, {} },
	{ "Load", cmd_load,
	  { { "object", ARG_STRING }, { "name", ARG_STRING }, { "target", ARG_OBJECT, true }, { "attach", ARG_BOOL, true },
	    { "map_sizes", ARG_OBJECTS, true }, { "ephemeral", ARG_BOOL, true }, { "log_level", ARG_INT, true },
	    { "allow_override", ARG_BOOL, true }, { "trap", ARG_BOOL, true } } },
	{ "Unload", cmd_unload, { { "object", ARG_STRING } } },
	{ "Attach", cmd_attach,
	  { { "programs", ARG_OBJECTS }, { "specs", ARG_STRINGS }, { "not", ARG_STRINGS, true },
	    { "target", ARG_OBJECT, true }, { "cookie", ARG_U64, true }, { "cookie_base", ARG_U64, true },
	    { "ephemeral", ARG_BOOL, true }, { "dry_run", ARG_BOOL, true }, { "trap", ARG_BOOL, true } } },
	{ "Detach", cmd_detach, { { "link", ARG_STRING, true }, { "all", ARG_BOOL, true } } },
	{ "Symbols", cmd_symbols,
	  { { "specs", ARG_STRINGS }, { "not", ARG_STRINGS, true }, { "target", ARG_OBJECT, true },
	    { "trap", ARG_BOOL, true } } },
	{ "ListObjects", cmd_list_objects, {} },
	{ "ListPrograms", cmd_list_programs, {} },
	{ "ListMaps", cmd_list_maps, {} },
	{ "ListLinks", cmd_list_links, {} },
	{ "ListTargets", cmd_list_targets, {} },
	{ "GetLink", cmd_get_link, { { "link", ARG_STRING } } },
	{ "DumpProgram", cmd_dump_program,
	  { { "program", ARG_STRING }, { "kind", ARG_STRING }, { "pid", ARG_INT, true } } },
	{ "TraceLog", cmd_trace_log, { { "pid", ARG_INT, true } } },
	{ "MapDump", cmd_map_dump,
	  { { "map", ARG_STRING }, { "count", ARG_INT, true }, { "after", ARG_STRING, true }, { "take", ARG_BOOL, true } } },
	{ "StackNames", cmd_stack_names, { { "map", ARG_STRING } } },
	{ "MapTail", cmd_map_tail, { { "map", ARG_STRING }, { "type", ARG_STRING, true } } },
	{ "MapLookup", cmd_map_lookup, { { "map", ARG_STRING }, { "key", ARG_STRING, true } } },
	{ "MapUpdate", cmd_map_update,
	  { { "map", ARG_STRING }, { "key", ARG_STRING, true }, { "value", ARG_STRING }, { "flags", ARG_STRING, true } } },
	{ "MapDelete", cmd_map_delete, { { "map", ARG_STRING }, { "key", ARG_STRING, true } } },
	{ "MapPop", cmd_map_pop, { { "map", ARG_STRING }, { "key", ARG_STRING, true } } },
	{ "MapFreeze", cmd_map_freeze, { { "map", ARG_STRING } } },
	{ "MapUpdateBatch", cmd_map_update_batch,
	  { { "map", ARG_STRING }, { "keys", ARG_STRINGS }, { "values", ARG_STRINGS }, { "flags", ARG_STRING, true } } },
	{ "MapDeleteBatch", cmd_map_delete_batch, { { "map", ARG_STRING }, { "keys", ARG_STRINGS } } },
	{ "GetMissed", cmd_get_missed, { { "links", ARG_INTS } } },
	{ "Hold", cmd_hold, { { "pid", ARG_INT } } },
	{ "FindTargets", cmd_find_targets, { { "target", ARG_OBJECT } } },
	{ "Doctor", cmd_doctor, { { "pid", ARG_INT, true } } },
	{ "Shutdown", cmd_shutdown, {} },
};

static const char service_description[] =
	"# The Varlink service interface of every service.\n"
	"interface org.varlink.service\n\n"
	"method GetInfo() -> (vendor: string, product: string, version: string, url: string, interfaces: []string)\n"
	"method GetInterfaceDescription(interface: string) -> (description: string)\n\n"
	"error InterfaceNotFound (interface: string)\n"
	"error MethodNotFound (method: string)\n"
	"error MethodNotImplemented (method: string)\n"
	"error InvalidParameter (parameter: string)\n";

static void get_info(struct request *req)
{
	cJSON *r = cJSON_CreateObject();
	cJSON *interfaces;

	cJSON_AddStringToObject(r, "vendor", "uprobed");
	cJSON_AddStringToObject(r, "product", "uprobed");
	cJSON_AddStringToObject(r, "version", UPROBED_VERSION);
	cJSON_AddStringToObject(r, "url", "");
	interfaces = cJSON_AddArrayToObject(r, "interfaces");
	cJSON_AddItemToArray(interfaces, cJSON_CreateString("org.varlink.service"));
	cJSON_AddItemToArray(interfaces, cJSON_CreateString(UPROBED_INTERFACE));
	request_reply(req, r);
}

static void get_interface_description(struct request *req)
{
	const char *name = param_str(req, "interface");
	const char *text = NULL;
	cJSON *r;

	if (!strcmp(name, UPROBED_INTERFACE))
		text = protocol_interface;
	else if (!strcmp(name, "org.varlink.service"))
		text = service_description;
	if (!text) {
		request_standard_error(req, "org.varlink.service.InterfaceNotFound", "interface", name);
		return;
	}
	r = cJSON_CreateObject();
	cJSON_AddStringToObject(r, "description", text);
	request_reply(req, r);
}

static bool is_u32(const cJSON *v)
{
	return cJSON_IsNumber(v) && v->valuedouble >= 0 && v->valuedouble <= 2147483647.0 &&
	       v->valuedouble == floor(v->valuedouble);
}

static bool all_are(const cJSON *array, bool (*is)(const cJSON *))
{
	const cJSON *item;

	if (!cJSON_IsArray(array))
		return false;
	cJSON_ArrayForEach(item, array) {
		if (!is(item))
			return false;
	}
	return true;
}

static bool is_string(const cJSON *v)
{
	return cJSON_IsString(v);
}

static bool is_object(const cJSON *v)
{
	return cJSON_IsObject(v);
}

static bool arg_holds(const cJSON *params, const struct arg *a)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(params, a->name);
	uint64_t u;

	if (!v || cJSON_IsNull(v))
		return a->optional;
	switch (a->type) {
	case ARG_STRING:
		return cJSON_IsString(v);
	case ARG_INT:
		return is_u32(v);
	case ARG_U64:
		return protocol_get_u64(params, a->name, &u);
	case ARG_BOOL:
		return cJSON_IsBool(v);
	case ARG_STRINGS:
		return all_are(v, is_string);
	case ARG_INTS:
		return all_are(v, is_u32);
	case ARG_OBJECT:
		return cJSON_IsObject(v);
	case ARG_OBJECTS:
		return all_are(v, is_object);
	case ARG_END:
		break;
	}
	return false;
}

/* The name of the first parameter that is missing, wrong or unknown; NULL: none. */
static const char *wrong_parameter(const struct command *cmd, const cJSON *params)
{
	const cJSON *item;

	for (const struct arg *a = cmd->args; a->type != ARG_END; a++)
		if (!arg_holds(params, a))
			return a->name;
	cJSON_ArrayForEach(item, params) {
		const struct arg *a = cmd->args;

		while (a->type != ARG_END && strcmp(a->name, item->string))
			a++;
		if (a->type == ARG_END)
			return item->string;
	}
	return NULL;
}

static const struct command *find_command(const char *interface, size_t len, const char *method, bool *known)
{
	const struct command *table = NULL;
	size_t n = 0;

	if (len == strlen(UPROBED_INTERFACE) && !memcmp(interface, UPROBED_INTERFACE, len)) {
		table = commands;
		n = ARRAY_SIZE(commands);
	} else if (len == strlen("org.varlink.service") && !memcmp(interface, "org.varlink.service", len)) {
		table = service_commands;
		n = ARRAY_SIZE(service_commands);
	}
	*known = table;
	for (size_t i = 0; i < n; i++)
		if (!strcmp(table[i].name, method))
			return &table[i];
	return NULL;
}

static void run(struct request *req, const char *method)
{
	const char *dot = strrchr(method, '.');
	const struct command *cmd;
	const char *wrong;
	char interface[128];
	bool known;

	if (!dot || (size_t)(dot - method) >= sizeof(interface)) {
		request_standard_error(req, "org.varlink.service.MethodNotFound", "method", method);
		return;
	}
	memcpy(interface, method, dot - method);
	interface[dot - method] = 0;
	cmd = find_command(interface, dot - method, dot + 1, &known);
	if (!known) {
		request_standard_error(req, "org.varlink.service.InterfaceNotFound", "interface", interface);
		return;
	}
	if (!cmd) {
		request_standard_error(req, "org.varlink.service.MethodNotFound", "method", method);
		return;
	}
	wrong = wrong_parameter(cmd, req->params);
	if (wrong) {
		request_standard_error(req, "org.varlink.service.InvalidParameter", "parameter", wrong);
		return;
	}
	req->method = cmd->name;
	cmd->handler(req);
}

void dispatch(struct request *req)
{
	static cJSON no_params = { .type = cJSON_Object };
	const char *method = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(req->message, "method"));
	const cJSON *params = cJSON_GetObjectItemCaseSensitive(req->message, "parameters");

	req->more = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(req->message, "more"));
	req->oneway = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(req->message, "oneway"));
	req->params = params && !cJSON_IsNull(params) ? params : &no_params;
	if (!method)
		request_standard_error(req, "org.varlink.service.InvalidParameter", "parameter", "method");
	else if (!cJSON_IsObject(req->params))
		request_standard_error(req, "org.varlink.service.InvalidParameter", "parameter", "parameters");
	else
		run(req, method);
}

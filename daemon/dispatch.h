/* SPDX-License-Identifier: MIT */
/* The command table: every method, its arguments, and who handles it. */
#pragma once
#include "daemon/server.h"

/* Takes a message apart, checks it against the table, and lets the handler
 * answer. REQ is answered in every case. */
void dispatch(struct request *req);

/* The handlers, by file. Each ends the request, now or later. */
void cmd_get_status(struct request *req);     /* cmd_status.c */
void cmd_shutdown(struct request *req);
void cmd_doctor(struct request *req);         /* cmd_doctor.c */
void cmd_list_objects(struct request *req);   /* cmd_list.c */
void cmd_list_programs(struct request *req);
void cmd_list_maps(struct request *req);
void cmd_list_links(struct request *req);
void cmd_list_targets(struct request *req);
void cmd_get_link(struct request *req);
void cmd_get_missed(struct request *req);
void cmd_load(struct request *req);           /* cmd_load.c */
void cmd_unload(struct request *req);
void cmd_dump_program(struct request *req);   /* cmd_prog.c */
void cmd_trace_log(struct request *req);
void cmd_map_dump(struct request *req);       /* cmd_map.c */
void cmd_map_lookup(struct request *req);
void cmd_map_update(struct request *req);
void cmd_map_delete(struct request *req);
void cmd_map_pop(struct request *req);
void cmd_map_freeze(struct request *req);
void cmd_map_update_batch(struct request *req);
void cmd_map_delete_batch(struct request *req);
void cmd_stack_names(struct request *req);    /* cmd_stacks.c */
void cmd_map_tail(struct request *req);       /* tail.c */
void cmd_attach(struct request *req);         /* cmd_attach.c */
void cmd_detach(struct request *req);
void cmd_symbols(struct request *req);        /* cmd_target.c */
void cmd_find_targets(struct request *req);
void cmd_hold(struct request *req);

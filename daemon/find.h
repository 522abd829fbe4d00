/* SPDX-License-Identifier: MIT */
/* What a client means by an id or a name, among what it may use. */
#pragma once
#include "daemon/server.h"

struct uerr *find_object(const struct request *req, const char *text, struct loaded **ret) UERR_MUST_CHECK;
struct uerr *find_program(const struct request *req, const char *text, struct program **ret) UERR_MUST_CHECK;
/* "name", "object.name" or an id. */
struct uerr *find_map(const struct request *req, const char *text, struct map **ret) UERR_MUST_CHECK;
struct uerr *find_link(const struct request *req, const char *text, struct link **ret) UERR_MUST_CHECK;

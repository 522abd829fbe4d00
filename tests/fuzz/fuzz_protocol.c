/* SPDX-License-Identifier: MIT */
/* Bytes from a socket, through framing, JSON and the readers of parameters. */
#include <stdlib.h>
#include <string.h>

#include "daemon/protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_at(const cJSON *msg)
{
	const cJSON *item;

	cJSON_ArrayForEach(item, msg) {
		uint64_t v;

		if (item->string)
			(void)protocol_get_u64(msg, item->string, &v);
		if (cJSON_IsString(item)) {
			void *bytes;
			size_t n;
			struct uerr *err = protocol_base64_decode(item->valuestring, &bytes, &n);

			if (!err)
				free(bytes);
			uerr_free(err);
		}
	}
	uerr_free(protocol_error_from_reply(msg));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct protocol_buf b = { .max_items = 10000 };
	struct uerr *err = protocol_buf_room(&b, size + 1);
	cJSON *msg = NULL;

	if (!err) {
		memcpy(b.data, data, size);
		b.data[size] = 0;
		b.n = size + 1;
		for (err = protocol_take(&b, &msg); !err && msg; err = protocol_take(&b, &msg)) {
			look_at(msg);
			cJSON_Delete(msg);
		}
	}
	uerr_free(err);
	protocol_buf_deinit(&b);
	return 0;
}

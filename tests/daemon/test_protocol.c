/* SPDX-License-Identifier: MIT */
/* The wire: framing, exact integers, base64, and what hostile peers send. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/protocol.h"
#include "tests/support/suite.h"

static void feed(struct protocol_buf *b, const char *bytes, size_t n)
{
	struct uerr *err = protocol_buf_room(b, n);

	ck_assert_ptr_null(err);
	memcpy(b->data + b->n, bytes, n);
	b->n += n;
}

START_TEST(two_messages_come_in_pieces)
{
	static const char bytes[] = "{\"a\":1}\0{\"b\":\"x\"}";
	struct protocol_buf b = {};
	cJSON *msg;

	for (size_t i = 0; i < sizeof(bytes) - 1; i++) {
		feed(&b, bytes + i, 1);
		if (i == 7)
			continue; /* the first NUL */
		if (i < 7) {
			ck_assert_ptr_null(protocol_take(&b, &msg));
			ck_assert_ptr_null(msg);
		}
	}
	feed(&b, "", 1);
	ck_assert_ptr_null(protocol_take(&b, &msg));
	ck_assert_ptr_nonnull(cJSON_GetObjectItem(msg, "a"));
	cJSON_Delete(msg);
	ck_assert_ptr_null(protocol_take(&b, &msg));
	ck_assert_str_eq(cJSON_GetObjectItem(msg, "b")->valuestring, "x");
	cJSON_Delete(msg);
	ck_assert_ptr_null(protocol_take(&b, &msg));
	ck_assert_ptr_null(msg);
	ck_assert_uint_eq(b.n, 0);
	protocol_buf_deinit(&b);
}
END_TEST

static const char *const garbage[] = { "", "x", "[]", "1", "{", "{\"a\":}", "{} {}", "null", "\xff\xfe", "{\"a\"" };

START_TEST(what_is_no_object_is_an_error)
{
	struct protocol_buf b = {};
	struct uerr *err;
	cJSON *msg;

	feed(&b, garbage[_i], strlen(garbage[_i]) + 1);
	err = protocol_take(&b, &msg);
	ck_assert_ptr_nonnull(err);
	ck_assert_ptr_null(msg);
	uerr_free(err);
	protocol_buf_deinit(&b);
}
END_TEST

START_TEST(too_many_values_are_refused_before_they_are_parsed)
{
	struct protocol_buf b = { .max_items = 1000 };
	struct uerr *err;
	cJSON *msg;

	feed(&b, "{\"a\":[", 6);
	for (int i = 0; i < 2000; i++)
		feed(&b, "0,", 2);
	feed(&b, "0]}", 4);
	err = protocol_take(&b, &msg);
	ck_assert_ptr_nonnull(err);
	ck_assert_int_eq(err->code, UERR_USAGE);
	uerr_free(err);
	protocol_buf_deinit(&b);
}
END_TEST

START_TEST(commas_in_strings_are_no_values)
{
	struct protocol_buf b = { .max_items = 3 };
	cJSON *msg;

	feed(&b, "{\"a\":\"[[{{,,,,,,\\\",,,\"}", strlen("{\"a\":\"[[{{,,,,,,\\\",,,\"}") + 1);
	ck_assert_ptr_null(protocol_take(&b, &msg));
	ck_assert_ptr_nonnull(msg);
	cJSON_Delete(msg);
	protocol_buf_deinit(&b);
}
END_TEST

START_TEST(an_endless_message_is_refused)
{
	struct protocol_buf b = {};
	struct uerr *err = NULL;
	static char chunk[1 << 20];

	memset(chunk, ' ', sizeof(chunk));
	for (int i = 0; i < 70 && !err; i++) {
		err = protocol_buf_room(&b, sizeof(chunk));
		if (!err) {
			memcpy(b.data + b.n, chunk, sizeof(chunk));
			b.n += sizeof(chunk);
		}
	}
	ck_assert_ptr_nonnull(err);
	uerr_free(err);
	protocol_buf_deinit(&b);
}
END_TEST

START_TEST(write_and_read_over_a_socket)
{
	struct protocol_buf b = {};
	cJSON *obj = cJSON_CreateObject(), *msg;
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	cJSON_AddStringToObject(obj, "method", "m");
	ck_assert_ptr_null(protocol_write(fds[0], obj));
	ck_assert_ptr_null(protocol_write(fds[0], obj));
	close(fds[0]);
	for (int i = 0; i < 2; i++) {
		ck_assert_ptr_null(protocol_read(fds[1], &b, &msg));
		ck_assert_str_eq(cJSON_GetObjectItem(msg, "method")->valuestring, "m");
		cJSON_Delete(msg);
	}
	ck_assert_ptr_null(protocol_read(fds[1], &b, &msg));
	ck_assert_ptr_null(msg);
	close(fds[1]);
	cJSON_Delete(obj);
	protocol_buf_deinit(&b);
}
END_TEST

START_TEST(writing_to_a_closed_socket_is_an_error)
{
	cJSON *obj = cJSON_CreateObject();
	struct uerr *err;
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	close(fds[1]);
	err = protocol_write(fds[0], obj);
	ck_assert_ptr_nonnull(err);
	uerr_free(err);
	close(fds[0]);
	cJSON_Delete(obj);
}
END_TEST

static const uint64_t numbers[] = { 0, 1, 1ull << 53, (1ull << 53) + 1, 5000000000000001, INT64_MAX, UINT64_MAX - 1,
				    UINT64_MAX };

START_TEST(integers_make_the_round_trip)
{
	cJSON *obj = cJSON_CreateObject(), *back;
	uint64_t v = 0;
	char *text;

	cJSON_AddItemToObject(obj, "d", protocol_u64(numbers[_i]));
	cJSON_AddItemToObject(obj, "a", protocol_addr(numbers[_i]));
	text = cJSON_PrintUnformatted(obj);
	back = cJSON_Parse(text);
	ck_assert(protocol_get_u64(back, "d", &v));
	ck_assert(v == numbers[_i]);
	ck_assert(protocol_get_u64(back, "a", &v));
	ck_assert(v == numbers[_i]);
	free(text);
	cJSON_Delete(back);
	cJSON_Delete(obj);
}
END_TEST

static const char *const wrong_numbers[] = { "\"\"", "\"-1\"", "\"1x\"", "\"18446744073709551616\"", "\" 1\"", "-1",
					     "1.5", "1e30", "true", "null", "\"0x\"x" };

START_TEST(what_is_no_u64_is_refused)
{
	char text[64];
	uint64_t v = 7;
	cJSON *obj;

	snprintf(text, sizeof(text), "{\"n\":%s}", wrong_numbers[_i]);
	obj = cJSON_Parse(text);
	ck_assert(!protocol_get_u64(obj, "n", &v));
	ck_assert(v == 7);
	cJSON_Delete(obj);
}
END_TEST

START_TEST(base64_of_every_length)
{
	unsigned char bytes[300];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = i * 37 + 11;
	for (size_t n = 0; n <= sizeof(bytes); n++) {
		char *text = protocol_base64(bytes, n);
		void *back;
		size_t nback;

		ck_assert_ptr_null(protocol_base64_decode(text, &back, &nback));
		ck_assert_uint_eq(n, nback);
		ck_assert_int_eq(memcmp(back, bytes, n), 0);
		free(back);
		free(text);
	}
}
END_TEST

START_TEST(wrong_base64_is_refused)
{
	static const char *const wrong[] = { "A", "AA", "AAA", "A===", "====", "AA=A", "AAA*", "AAAA\n" };

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		size_t n;
		void *p;
		struct uerr *err = protocol_base64_decode(wrong[i], &p, &n);

		ck_assert_msg(err, "%s was taken", wrong[i]);
		uerr_free(err);
	}
}
END_TEST

START_TEST(errors_make_the_round_trip)
{
	struct uerr *err = uerr_new(UERR_NO_SYMBOL, "no function 'x'"), *back;
	cJSON *reply, *none = cJSON_Parse("{\"parameters\":{}}");

	uerr_add_near(err, "y");
	uerr_set_log(err, "line 1\nline 2");
	reply = protocol_error_reply(err);
	back = protocol_error_from_reply(reply);
	ck_assert_int_eq(back->code, UERR_NO_SYMBOL);
	ck_assert_str_eq(back->message, "no function 'x'");
	ck_assert_uint_eq(back->nnear, 1);
	ck_assert_str_eq(back->near[0], "y");
	ck_assert_str_eq(back->log, "line 1\nline 2");
	ck_assert_ptr_null(protocol_error_from_reply(none));
	uerr_free(err);
	uerr_free(back);
	cJSON_Delete(reply);
	cJSON_Delete(none);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("protocol");
	TCase *t = tcase_create("protocol");

	tcase_add_test(t, two_messages_come_in_pieces);
	tcase_add_loop_test(t, what_is_no_object_is_an_error, 0, sizeof(garbage) / sizeof(garbage[0]));
	tcase_add_test(t, too_many_values_are_refused_before_they_are_parsed);
	tcase_add_test(t, commas_in_strings_are_no_values);
	tcase_add_test(t, an_endless_message_is_refused);
	tcase_add_test(t, write_and_read_over_a_socket);
	tcase_add_test(t, writing_to_a_closed_socket_is_an_error);
	tcase_add_loop_test(t, integers_make_the_round_trip, 0, sizeof(numbers) / sizeof(numbers[0]));
	tcase_add_loop_test(t, what_is_no_u64_is_refused, 0, sizeof(wrong_numbers) / sizeof(wrong_numbers[0]));
	tcase_add_test(t, base64_of_every_length);
	tcase_add_test(t, wrong_base64_is_refused);
	tcase_add_test(t, errors_make_the_round_trip);
	suite_add_tcase(s, t);
	return suite_run(s);
}

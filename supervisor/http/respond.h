/* respond.h: answers that every door gives alike: the error's form, no caching, and the header lines for pages of allowed
 * origins (doors_respond_error and doors_cors of doors.h live here too). Each function ends or begins the answer; none fails. */
#ifndef LSV_HTTP_RESPOND_H
#define LSV_HTTP_RESPOND_H

#include "base/json.h"
#include "http/doors.h"

/* more_headers: lines each ended by CRLF (at most 1,000 bytes in all), or NULL. */
void respond_text(struct request *req, int status, const char *content_type, const char *more_headers,
                  const void *body, size_t len);
/* A streamed answer with the same headers; request_write and request_end follow. */
void respond_begin(struct request *req, int status, const char *content_type, const char *more_headers);
/* The buffer's content and a newline; a failed buffer becomes a 503. */
void respond_json(struct request *req, int status, const char *more_headers, struct buffer *body);

/* doors_respond_error with the parameter that is wrong, or with more headers. */
void respond_error_param(struct request *req, int status, const char *param, const char *fmt, ...)
        PRINTF_LIKE(4, 5);
void respond_error_with(struct request *req, int status, const char *param, const char *more_headers,
                        const char *message);
/* With a word for programs in place of the status as its "code" ("invalid_api_key"), as the OpenAI API has it. */
void respond_error_coded(struct request *req, int status, const char *code, const char *more_headers,
                         const char *message);
/* An error without any line for pages: for those that did not pass the gate. */
void respond_error_bare(struct request *req, int status, const char *message);
/* "invalid_request_error", "not_found_error", … by status. */
const char *respond_error_type(int status);
/* The member "error":{…} into an open object, for answers that hold more besides. */
void respond_put_error(struct json_writer *w, int status, const char *param, const char *message);

#endif

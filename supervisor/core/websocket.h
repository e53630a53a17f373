/* websocket.h: frames of RFC 6455 as a server meets them, without a socket: what a client sends is read and judged byte by
 * byte, what we send gets its head.
 *
 * Bytes go in as they come, in pieces of any size; whole messages and control frames come out. What breaks a rule is refused
 * with the close code of §7.4.1 and a sentence that says which: a frame without a mask (§5.1), reserved bits and opcodes
 * (§5.2: no extension is ever agreed on), a length that is not in its shortest form, control frames that are fragmented or
 * longer than 125 bytes (§5.5), continuations of nothing and messages inside messages (§5.4), close codes that may not be sent
 * (§7.4), text that is not UTF-8 (§8.1, judged when the message is whole), messages over the bound (from their head alone). After a
 * refusal or a close frame nothing may follow, and nothing more is read. */
#ifndef LSV_CORE_WEBSOCKET_H
#define LSV_CORE_WEBSOCKET_H

#include <stdint.h>

#include "base/buffer.h"
#include "base/slice.h"

enum {
        WEBSOCKET_HEAD_MAX = 10, /* of the frames that we send, which have no mask */
        WEBSOCKET_CONTROL_MAX = 125,
        WEBSOCKET_CLOSE_MAX = 4 + WEBSOCKET_CONTROL_MAX, /* a whole close frame */
};

enum websocket_opcode {
        WEBSOCKET_CONTINUATION = 0,
        WEBSOCKET_TEXT = 1,
        WEBSOCKET_BINARY = 2,
        WEBSOCKET_CLOSE = 8,
        WEBSOCKET_PING = 9,
        WEBSOCKET_PONG = 10,
};

enum websocket_code {
        WEBSOCKET_NORMAL = 1000,
        WEBSOCKET_GOING_AWAY = 1001,
        WEBSOCKET_PROTOCOL_ERROR = 1002,
        WEBSOCKET_NO_STATUS = 1005, /* stands for a close frame that is empty */
        WEBSOCKET_NOT_TEXT = 1007,
        WEBSOCKET_POLICY = 1008,
        WEBSOCKET_TOO_BIG = 1009,
        WEBSOCKET_NO_MEMORY = 1011,
        WEBSOCKET_RESTART = 1012, /* RFC 6455 §11.7: the service restarts, come back */
};

/* What came: opcode TEXT or BINARY for a whole message, CLOSE, PING, PONG. The payload (never NULL) is valid until the next call. */
struct websocket_event {
        enum websocket_opcode opcode;
        enum websocket_code code; /* of a close frame, and of a refusal */
        struct slice payload;     /* of a close frame: its reason; of a refusal: which rule, in plain words */
};

struct websocket {
        struct buffer message; /* what has come of a message; no memory between messages */
        uint64_t left;         /* of the frame's payload */
        unsigned char head[14], control[WEBSOCKET_CONTROL_MAX];
        unsigned char head_len, head_need, control_len, mask_at;
        unsigned char first; /* of the message's first frame: its opcode; 0 between messages */
        bool in_payload, delivered, ended;
};

/* max: bytes of a message, over all its frames. */
void websocket_init(struct websocket *w, size_t max);
void websocket_finish(struct websocket *w);

enum websocket_result {
        WEBSOCKET_MORE,  /* all bytes are used, and more are needed */
        WEBSOCKET_EVENT, /* *ret_used bytes are used: call again with the others, also when there are none */
        WEBSOCKET_REFUSED, /* *ret says why; the connection must be closed with ret->code */
};
enum websocket_result websocket_feed(struct websocket *w, const void *data, size_t len, size_t *ret_used,
                                     struct websocket_event *ret);

/* The head of a whole, unmasked frame in front of len bytes of payload. Returns its length. */
size_t websocket_build_head(unsigned char ret[WEBSOCKET_HEAD_MAX], enum websocket_opcode opcode,
                            uint64_t len);
/* A whole close frame; the reason is cut at a character when it is too long. Returns its length. */
size_t websocket_build_close(unsigned char ret[WEBSOCKET_CLOSE_MAX], enum websocket_code code,
                             struct slice reason);

#endif

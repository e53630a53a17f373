/* engineio.c: Engine.IO and Socket.IO packets taken apart. */
#include "http/engineio.h"

#include <errno.h>

#include "base/json.h"

static const uint64_t ID_MAX = (UINT64_C(1) << 53) - 1;

int engineio_parse(struct slice text, struct engineio_packet *ret)
{
        struct engineio_packet p = {.data = slice_sub(text, 1, text.n)};

        if (text.n == 0)
                return -EBADMSG;
        if (text.p[0] >= '0' && text.p[0] <= '6')
                p.type = (enum engineio_type)(text.p[0] - '0');
        else if (text.p[0] == 'b')
                p.type = ENGINEIO_BINARY;
        else
                return -EBADMSG;
        *ret = p;
        return 0;
}

bool engineio_next(struct slice *rest, struct slice *ret)
{
        size_t n;

        if (!rest->p)
                return false;
        n = slice_find(*rest, ENGINEIO_SEPARATOR);
        *ret = slice_sub(*rest, 0, n);
        *rest = n < rest->n ? (struct slice){rest->p + n + 1, rest->n - n - 1} : (struct slice){NULL, 0};
        return true;
}

/* Takes the digits at the front: 0, -ENOENT when there are none, -EBADMSG beyond max. */
static int take_number(struct slice *rest, uint64_t max, uint64_t *ret)
{
        uint64_t v = 0;
        size_t n = 0;

        for (; n < rest->n && rest->p[n] >= '0' && rest->p[n] <= '9'; n++) {
                v = v * 10 + (uint64_t)(rest->p[n] - '0');
                if (v > max)
                        return -EBADMSG;
        }
        if (n == 0)
                return -ENOENT;
        *rest = slice_sub(*rest, n, rest->n);
        *ret = v;
        return 0;
}

static bool is_binary(enum socketio_type type)
{
        return type == SOCKETIO_BINARY_EVENT || type == SOCKETIO_BINARY_ACK;
}

static int take_attachments(struct slice *rest, unsigned *ret)
{
        uint64_t v;

        if (take_number(rest, SOCKETIO_ATTACHMENTS_MAX, &v) < 0 || rest->n == 0 || rest->p[0] != '-')
                return -EBADMSG;
        *rest = slice_sub(*rest, 1, rest->n);
        *ret = (unsigned)v;
        return 0;
}

static void take_namespace(struct slice *rest, struct slice *ret)
{
        size_t n;

        *ret = SLICE("/");
        if (rest->n == 0 || rest->p[0] != '/')
                return;
        n = slice_find(*rest, ',');
        *ret = slice_sub(*rest, 0, n);
        *rest = slice_sub(*rest, n + 1, rest->n);
}

/* Names that the protocol keeps for itself. */
static bool is_reserved(const char *event)
{
        static const char *const names[] = {"connect",       "connect_error", "disconnect",
                                            "disconnecting", "newListener",   "removeListener"};

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (streq(event, names[i]))
                        return true;
        return false;
}

/* The text is a checked array: what does its first element begin with? */
static bool begins_with_number(struct slice text)
{
        size_t i = 1;

        while (i < text.n && strchr(" \t\r\n", text.p[i]))
                i++;
        return i < text.n && (text.p[i] == '-' || (text.p[i] >= '0' && text.p[i] <= '9'));
}

static int check_event(const struct json_value *data, struct slice text, char event[SOCKETIO_EVENT_MAX])
{
        const char *name = json_as_string(json_at(data, 0));

        if (!json_is_array(data) || json_count(data) == 0)
                return -EBADMSG;
        event[0] = '\0';
        if (!name) /* a number is a name, too */
                return begins_with_number(text) ? 0 : -EBADMSG;
        if (is_reserved(name))
                return -EBADMSG;
        if (strlen(name) < SOCKETIO_EVENT_MAX)
                memcpy(event, name, strlen(name) + 1);
        return 0;
}

static int check_data(struct socketio_packet *p)
{
        struct json_value *data = NULL;
        int r = 0;

        if (p->data.n == 0)
                return p->type == SOCKETIO_CONNECT || p->type == SOCKETIO_DISCONNECT ? 0 : -EBADMSG;
        r = json_parse(p->data.p, p->data.n, &data, NULL);
        if (r < 0)
                return r;
        switch (p->type) {
        case SOCKETIO_CONNECT:
                r = json_is_object(data) ? 0 : -EBADMSG;
                break;
        case SOCKETIO_DISCONNECT:
                r = -EBADMSG;
                break;
        case SOCKETIO_CONNECT_ERROR:
                r = json_is_object(data) || json_as_string(data) ? 0 : -EBADMSG;
                break;
        case SOCKETIO_EVENT:
        case SOCKETIO_BINARY_EVENT:
                r = check_event(data, p->data, p->event);
                break;
        case SOCKETIO_ACK:
        case SOCKETIO_BINARY_ACK:
                r = json_is_array(data) ? 0 : -EBADMSG;
                break;
        }
        json_free(data);
        return r;
}

int socketio_parse(struct slice text, struct socketio_packet *ret)
{
        struct socketio_packet p = {0};
        struct slice rest = slice_sub(text, 1, text.n);
        int r;

        if (text.n == 0 || text.p[0] < '0' || text.p[0] > '6')
                return -EBADMSG;
        p.type = (enum socketio_type)(text.p[0] - '0');
        if (is_binary(p.type)) {
                r = take_attachments(&rest, &p.attachments);
                if (r < 0)
                        return r;
        }
        take_namespace(&rest, &p.nsp);
        r = take_number(&rest, ID_MAX, &p.id);
        if (r < 0 && r != -ENOENT)
                return r;
        p.has_id = r == 0;
        while (rest.n && strchr(" \t\r\n", rest.p[0]))
                rest = slice_sub(rest, 1, rest.n);
        p.data = rest;
        r = check_data(&p);
        if (r < 0)
                return r;
        *ret = p;
        return 0;
}

/* test_journal.c: who has a hub's journal, and what becomes of a journal that cannot be had, read or written. */
#include "hub_world.h"

#include <stdatomic.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "hub/folder_lock.h"
#include "net/loop_private.h"

#define SLOW                                                                                                 \
        "{\"name\": \"q\", \"model\": \"m.gguf\", \"args\": [\"--tok-s\", \"20\", \"--tokens\", "            \
        "\"100000\", \"-np\", \"2\", \"-c\", \"16384\"]}"
#define ASK(n) "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"max_tokens\":" #n "}"
#define LONG   ASK(100000)

static char *claims_dir(const struct scene *s)
{
        return text_format("%s/state/hubs/lab/claims", s->world->dir);
}

/* The hub gives us a job, and its record is on disk. */
static void take_on(struct scene *s, const struct hub_claim *claim)
{
        assert_int_equal(script_deliver(&s->script, claim), 0);
        WAIT(s, count_records(s, ".claim") == 1);
}

/* … and its answer has begun. */
static void work_on(struct scene *s, const struct hub_claim *claim)
{
        assert_int_equal(script_deliver(&s->script, claim), 0);
        WAIT(s, s->script.chunks > 0);
}

/* At once, as if killed; what the hub was told so far is forgotten. */
static void end_daemon(struct scene *s)
{
        drop_hubs(s);
        script_forget(&s->script);
}

/* At the journal, now and not when it is due. */
static void look_again(const struct scene *s)
{
        lab(s)->look_at = 0;
        hubs_wake_at(s->hubs, 0);
}

/* What a daemon left that ended in the middle of a job. */
static void leave_claim(struct scene *s, struct world *w)
{
        struct hub_claim claim = script_claim("j1", LONG);

        begin_ready(s, w, SLOW);
        take_on(s, &claim);
        end_daemon(s);
}

/* Of another daemon: a process of its own that holds the lock until the pipe is closed. */
struct other {
        pid_t pid;
        int go;
};

static void begin_other(struct other *o, const char *dir)
{
        int ready[2], go[2];
        char c;

        assert_int_equal(pipe(ready), 0);
        assert_int_equal(pipe(go), 0);
        o->pid = fork();
        assert_true(o->pid >= 0);
        if (o->pid == 0) {
                pid_t holder;
                int fd, r = folder_lock_take(dir, -1, &fd, &holder);

                (void)close(go[1]);
                (void)!write(ready[1], r == 0 ? "y" : "n", 1);
                (void)!read(go[0], &c, 1);
                _exit(0);
        }
        (void)close(ready[1]);
        (void)close(go[0]);
        assert_int_equal(read(ready[0], &c, 1), 1);
        assert_int_equal(c, 'y');
        (void)close(ready[0]);
        o->go = go[1];
}

static void end_other(struct other *o)
{
        (void)close(o->go);
        assert_int_equal(waitpid(o->pid, NULL, 0), o->pid);
}

/* What the other one has promised is adopted by nobody as long as it lives, and by whoever comes when it has ended, however it did. */
static void a_journal_has_one_owner(void **state)
{
        struct scene s;
        _cleanup_free_ char *dir = NULL;
        struct other other;
        char pid[32];

        leave_claim(&s, *state);
        dir = text_format("%s/state/hubs/lab", s.world->dir);
        begin_other(&other, dir);
        open_hubs(&s, false);
        rest(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->state, HUB_DOWN);
        assert_non_null(strstr(hubs_report(s.hubs, 0)->why, "another llama-supervisor"));
        assert_non_null(strstr(hubs_report(s.hubs, 0)->why, "state_dir of its own"));
        (void)snprintf(pid, sizeof(pid), "(process %d)", (int)other.pid);
        assert_non_null(strstr(hubs_report(s.hubs, 0)->why, pid));
        assert_true(hubs_report(s.hubs, 0)->retry_at != USEC_INFINITY);
        assert_int_equal(s.script.opens, 1); /* nor is the driver's own session touched */
        assert_int_equal(s.script.n_orders, 0);
        assert_int_equal(count_records(&s, ".claim"), 1);
        end_other(&other);
        (void)wait_orders(&s, 2); /* adopted, and given back */
        wait_quiet(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->state, HUB_UP);
        finish(&s);
}

/* An address that is taken, a network that is not there yet: the hub is opened when it can be, and what an earlier daemon left is settled
 * then. What is configured wrongly stays so. */
static void a_hub_that_cannot_be_opened_is_opened_later(void **state)
{
        struct scene s;

        leave_claim(&s, *state);
        s.script.open = -EADDRINUSE;
        s.script.open_refusals = 1;
        open_hubs(&s, false);
        rest(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->state, HUB_DOWN);
        assert_string_equal(hubs_report(s.hubs, 0)->why, "the script refuses");
        assert_true(hubs_report(s.hubs, 0)->retry_at != USEC_INFINITY);
        (void)wait_orders(&s, 2); /* adopted, and given back */
        wait_quiet(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->state, HUB_UP);
        drop_hubs(&s);
        s.script.open = -EINVAL;
        s.script.open_refusals = 1;
        open_hubs(&s, false);
        rest(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->state, HUB_DOWN);
        assert_true(hubs_report(s.hubs, 0)->retry_at == USEC_INFINITY);
        finish(&s);
}

/* As after an exec: the descriptor of the program before is the lock; a stranger's is not. */
static void the_lock_is_had_from_the_program_before(void **state)
{
        struct world *w = *state;
        int fd = -1, next = -1, third = -1, stranger = open("/dev/null", O_RDWR | O_CLOEXEC);
        pid_t holder = 0;

        assert_int_equal(folder_lock_take(w->dir, -1, &fd, &holder), 0);
        assert_int_equal(folder_lock_take(w->dir, -1, &next, &holder), -EBUSY);
        assert_int_equal(holder, getpid());
        assert_int_equal(folder_lock_take(w->dir, stranger, &next, &holder), -EBUSY);
        assert_int_equal(folder_lock_take(w->dir, fd, &next, &holder), 0);
        assert_int_equal(next, fd);
        assert_int_equal(folder_lock_take(w->dir, -1, &third, &holder), -EBUSY);
        (void)close(next);
        assert_int_equal(folder_lock_take(w->dir, -1, &third, &holder), 0);
        (void)close(third);
}

/* A disk in trouble is no broken record: what cannot be read now is read later, and nothing is set aside. */
static void what_cannot_be_read_now_is_read_later(void **state)
{
        struct scene s;
        _cleanup_free_ char *dir = NULL, *path = NULL, *away = NULL;
        char **names = NULL;

        leave_claim(&s, *state);
        dir = claims_dir(&s);
        assert_int_equal(file_list(dir, ".claim", 10, &names), 0);
        path = text_format("%s/%s", dir, names[0]);
        away = text_format("%s/away", s.world->dir);
        assert_int_equal(rename(path, away), 0);
        assert_int_equal(symlink(path, path), 0); /* ELOOP */
        open_hubs(&s, false);
        rest(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->state, HUB_UP);
        assert_int_equal(s.script.n_orders, 0);
        assert_int_equal(count_records(&s, ".bad"), 0);
        assert_int_equal(count_records(&s, ".claim"), 1);
        assert_non_null(strstr(hubs_report(s.hubs, 0)->last_error, "cannot be read now"));
        /* Once more in vain, then not. */
        lab(&s)->look_at = 0;
        s.hubs->dirty = true;
        rest(&s);
        assert_true(lab(&s)->look_at != 0);
        assert_int_equal(s.script.n_orders, 0);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rename(away, path), 0);
        look_again(&s);
        (void)wait_orders(&s, 2);
        wait_quiet(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->adopted, 1);
        text_list_free(names);
        finish(&s);
}

/* Memory that a driver lacks is no lost claim. */
static void what_cannot_be_adopted_now_is_adopted_later(void **state)
{
        struct scene s;

        leave_claim(&s, *state);
        s.script.adopt = -ENOMEM;
        open_hubs(&s, false);
        (void)wait_orders(&s, 1);
        rest(&s);
        assert_int_equal(count_records(&s, ".claim"), 1);
        assert_int_equal(hubs_report(s.hubs, 0)->lost, 0);
        s.script.adopt = 0;
        look_again(&s);
        (void)wait_orders(&s, 3);
        assert_int_equal(s.script.orders[2].kind, DID_RELEASE);
        wait_quiet(&s);
        finish(&s);
}

/* A disk that does not answer holds threads of the pool, and nothing else: here all of them are held. */
enum { THREADS = 16 };

static struct {
        atomic_bool held;
        atomic_uint begun;
        unsigned ended;
} pool;

static void hold_thread(void *job)
{
        (void)job;
        atomic_fetch_add(&pool.begun, 1);
        while (atomic_load(&pool.held))
                (void)usleep(1000);
}

static void thread_ended(void *job)
{
        (void)job;
        pool.ended++;
}

static void hold_pool(const struct scene *s)
{
        pool.ended = 0;
        atomic_store(&pool.begun, 0);
        atomic_store(&pool.held, true);
        for (unsigned i = 0; i < THREADS; i++)
                assert_int_equal(loop_work(s->world->loop, hold_thread, thread_ended, &pool), 0);
        WAIT(s, atomic_load(&pool.begun) > 0);
}

static void let_pool_go(const struct scene *s)
{
        atomic_store(&pool.held, false);
        WAIT(s, pool.ended == THREADS);
}

static void a_disk_that_does_not_answer_holds_up_nobody(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);
        _cleanup_free_ char *dir = NULL, *path = NULL, *away = NULL;
        char **names = NULL;

        begin_ready(&s, *state, SLOW);
        take_on(&s, &claim);
        end_daemon(&s);
        /* What cannot be read at the start is read later, by the pool. */
        dir = claims_dir(&s);
        assert_int_equal(file_list(dir, ".claim", 10, &names), 0);
        path = text_format("%s/%s", dir, names[0]);
        away = text_format("%s/away", s.world->dir);
        assert_int_equal(rename(path, away), 0);
        assert_int_equal(symlink(path, path), 0); /* ELOOP */
        open_hubs(&s, false);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rename(away, path), 0);
        hold_pool(&s);
        look_again(&s);
        rest(&s);
        look_again(&s); /* it is under way */
        rest(&s);
        assert_int_equal(s.script.n_orders, 0);
        assert_int_equal(lab(&s)->n_jobs, 0);
        let_pool_go(&s);
        (void)wait_orders(&s, 2);
        wait_quiet(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->adopted, 1);

        /* The same, and the hub has given it to us anew meanwhile, and it is done: the old record is nobody's. */
        WAIT(&s, s.script.total == 2);
        take_on(&s, &claim);
        end_daemon(&s);
        assert_int_equal(rename(path, away), 0);
        assert_int_equal(symlink(path, path), 0);
        open_hubs(&s, false);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rename(away, path), 0);
        WAIT(&s, s.script.total == 2);
        hold_pool(&s);
        look_again(&s);
        rest(&s);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        s.script.events->on_cancel(s.script.owner, "j1");
        WAIT(&s, s.script.n_orders == 1 && lab(&s)->n_jobs == 0);
        let_pool_go(&s);
        rest(&s);
        wait_quiet(&s);
        assert_int_equal(s.script.n_orders, 1);
        assert_int_equal(hubs_report(s.hubs, 0)->adopted, 0);

        /* Nor is a journal that could not be had looked at by the loop. */
        end_daemon(&s);
        s.script.open = -EADDRINUSE;
        s.script.open_refusals = 1;
        open_hubs(&s, false);
        assert_int_equal(hubs_report(s.hubs, 0)->state, HUB_DOWN);
        hold_pool(&s);
        look_again(&s);
        rest(&s);
        look_again(&s);
        rest(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->state, HUB_DOWN);
        let_pool_go(&s);
        WAIT(&s, hubs_report(s.hubs, 0)->state == HUB_UP);
        /* Who ends meanwhile is not called any more. */
        drop_hubs(&s);
        s.script.open_refusals = 1;
        open_hubs(&s, false);
        hold_pool(&s);
        look_again(&s);
        rest(&s);
        s.hubs = hubs_free(s.hubs);
        let_pool_go(&s);
        open_hubs(&s, false);
        text_list_free(names);
        finish(&s);
}

static void wait_work(struct scene *s)
{
        look_again(s);
        WAIT(s, s->script.chunks > 0);
        for (unsigned i = 0; i < s->script.n_orders; i++)
                assert_int_not_equal(s->script.orders[i].kind, DID_RELEASE);
}

/* After an upgrade what was under way is gone on with, also when it could not be had or adopted at once: else it would have been a try. */
static void an_upgrade_goes_on_however_late(void **state)
{
        struct scene s;

        leave_claim(&s, *state);
        s.script.open = -EADDRINUSE;
        s.script.open_refusals = 1;
        open_hubs(&s, true);
        rest(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->state, HUB_DOWN);
        wait_work(&s);
        end_daemon(&s);
        s.script.adopt = -ENOMEM;
        s.script.chunks = 0;
        open_hubs(&s, true);
        rest(&s);
        s.script.adopt = 0;
        wait_work(&s);
        finish(&s);
}

static void count_claim(void *owner, const char *key, char *claim, size_t claim_len, char *end,
                        size_t end_len)
{
        unsigned *n = owner;

        (void)key;
        (void)claim_len;
        (void)end_len;
        (*n)++;
        free(claim);
        free(end);
}

/* More records than there may be: as many as may are read, the others with the next start; the hub does not stand still for that. */
static void more_records_than_are_read_at_a_time(void **state)
{
        struct world *w = *state;
        _cleanup_free_ char *dir = text_format("%s/many", w->dir), *claims = text_format("%s/claims", dir);
        struct claims *c = NULL;
        unsigned n = 0;

        assert_int_equal(file_make_dir(claims, 0700), 0);
        for (unsigned i = 0; i < CLAIMS_RECORDS_MAX + 3; i++) {
                _cleanup_free_ char *path = text_format("%s/%032x.claim", claims, i);
                int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

                assert_true(fd >= 0);
                (void)close(fd);
        }
        assert_int_equal(claims_open(w->loop, dir, -1, &c), 0);
        assert_int_equal(claims_each(c, count_claim, &n), CLAIMS_RECORDS_MAX);
        assert_int_equal(n, CLAIMS_RECORDS_MAX);
        assert_true(claims_have_more(c));
        assert_null(claims_close(c));
        /* Those were settled; the next start has the rest. */
        for (unsigned i = 0; i < CLAIMS_RECORDS_MAX; i++) {
                _cleanup_free_ char *path = text_format("%s/%032x.claim", claims, i);

                assert_int_equal(unlink(path), 0);
        }
        assert_int_equal(claims_open(w->loop, dir, -1, &c), 0);
        assert_int_equal(claims_each(c, count_claim, &n), 3);
        assert_false(claims_have_more(c));
        assert_null(claims_close(c));
}

/* Of the job "jNN". */
static char *path_of_record(const char *dir, unsigned n)
{
        char id[16], key[CLAIMS_KEY_SIZE];

        (void)snprintf(id, sizeof(id), "j%02u", n);
        assert_non_null(claims_key(id, key));
        return text_format("%s/%s.claim", dir, key);
}

/* At each turn of the loop. */
struct between {
        struct scene *scene;
        uv_prepare_t each;
        unsigned seen; /* turns in which some were read, and none adopted */
};

static void come_and_go(uv_prepare_t *each)
{
        struct between *b = each->data;
        struct script *script = &b->scene->script;

        if (lab(b->scene)->n_jobs > 0 && script->n_orders == 0) {
                b->seen++;
                script_state(script, HUB_DOWN, "away");
                script_state(script, HUB_UP, NULL);
                assert_int_equal(script->renewals, 0);
        }
}

/* Records are read in batches: between two of them the hub comes back, and nothing is asked of a driver for a job that it has not adopted. */
static void a_hub_that_comes_back_while_records_are_read(void **state)
{
        enum { RECORDS = 20 };
        struct scene s;
        struct between b;
        struct hub_claim claim = script_claim("j00", LONG);
        _cleanup_free_ char *dir = NULL, *text = NULL;
        char **names = NULL;
        size_t len = 0;

        begin_ready(&s, *state, SLOW);
        claim.lease = usec_add(time_monotonic(), USEC_PER_HOUR);
        take_on(&s, &claim);
        end_daemon(&s);
        dir = claims_dir(&s);
        assert_int_equal(file_list(dir, ".claim", 10, &names), 0);
        {
                _cleanup_free_ char *path = text_format("%s/%s", dir, names[0]);

                assert_int_equal(file_read(path, 1 << 20, &text, &len), 0);
                assert_int_equal(unlink(path), 0);
        }
        for (unsigned i = 0; i < RECORDS; i++) {
                _cleanup_free_ char *path = path_of_record(dir, i);

                assert_int_equal(symlink(path, path), 0); /* ELOOP */
        }
        open_hubs(&s, false);
        for (unsigned i = 0; i < RECORDS; i++) {
                _cleanup_free_ char *path = path_of_record(dir, i);
                char *id;
                int fd;

                for (id = text; (id = memmem(id, len - (size_t)(id - text), "\"j", 2)); id++)
                        if (id[4] == '"') {
                                id[2] = (char)('0' + i / 10);
                                id[3] = (char)('0' + i % 10);
                        }
                assert_int_equal(unlink(path), 0);
                fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
                assert_true(fd >= 0);
                assert_int_equal(write(fd, text, len), len);
                (void)close(fd);
        }
        b = (struct between){.scene = &s, .each.data = &b};
        assert_int_equal(uv_prepare_init(loop_libuv(s.world->loop), &b.each), 0);
        assert_int_equal(uv_prepare_start(&b.each, come_and_go), 0);
        look_again(&s);
        WAIT(&s, hubs_report(s.hubs, 0)->adopted == RECORDS);
        assert_true(b.seen > 0);
        wait_quiet(&s);
        uv_close((uv_handle_t *)&b.each, NULL);
        rest(&s);
        text_list_free(names);
        finish(&s);
}

static void on_drained(void *owner)
{
        ((struct scene *)owner)->drained = true;
}

static void start_again(struct scene *s)
{
        end_daemon(s);
        s->script.how = HUB_STORED;
        s->script.status = (struct hub_status){.state = HUB_UP, .retry_at = USEC_INFINITY};
        open_hubs(s, false);
}

/* A stop while the hub is away: what was cut is given back by the next daemon, and nobody died over it. */
static void a_stop_while_the_hub_is_away_is_no_try(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);
        struct script_order *o;

        begin_ready(&s, *state, SLOW);
        work_on(&s, &claim);
        s.script.how = HUB_UNKNOWN;
        script_state(&s.script, HUB_DOWN, "away");
        hubs_drain(s.hubs, on_drained, &s);
        script_state(&s.script, HUB_DOWN, "away");
        hubs_hurry(s.hubs);
        WAIT(&s, s.drained);
        assert_int_equal(count_records(&s, ".claim"), 1);
        assert_int_equal(count_records(&s, ".end"), 1);
        start_again(&s);
        o = wait_orders(&s, 2);
        assert_int_equal(o->kind, DID_RELEASE);
        assert_string_equal(o->id, "j1");
        assert_int_equal(o->blame, HUB_BLAME_USUAL);
        wait_quiet(&s);
        assert_int_equal(hubs_report(s.hubs, 0)->released, 1);
        /* Who really dies over it is told apart. */
        WAIT(&s, s.script.total == 2);
        take_on(&s, &claim);
        start_again(&s);
        o = wait_orders(&s, 2);
        assert_int_equal(o->kind, DID_RELEASE);
        assert_int_equal(o->blame, HUB_BLAME_JOB);
        wait_quiet(&s);
        finish(&s);
}

/* Nor is a model that could not be loaded, of which the hub has not heard when we end; and it is still said when it is to be tried again. */
static void what_nobody_tried_is_no_try_after_a_crash(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", CHAT);
        struct script_order *o;
        usec_t later;

        begin(&s, *state,
              "{\"name\": \"q\", \"model\": \"m.gguf\", \"args\": [\"--oom-text\"], \"on_demand\": {}}");
        WAIT(&s, s.script.total == 1);
        s.script.silent = true; /* nor does it say that it has not heard it */
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        WAIT(&s, s.script.n_orders == 1 && count_records(&s, ".end") == 1);
        later = s.script.orders[0].retry_after;
        assert_true(later > 0);
        s.script.silent = false;
        start_again(&s);
        o = wait_orders(&s, 2);
        assert_int_equal(o->kind, DID_FAIL);
        assert_int_equal(o->fail, HUB_FAIL_RETRY);
        assert_int_equal(o->blame, HUB_BLAME_NOBODY);
        assert_int_equal(o->retry_after, later);
        wait_quiet(&s);
        finish(&s);
}

/* Where nothing can be given back, the next daemon does it again under the same claim, as it did before. */
static void where_nothing_can_be_given_back_it_is_done_again(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", ASK(60));
        struct script_order *o;

        begin_ready(&s, *state, SLOW);
        s.script.driver.caps &= ~(unsigned)HUB_CAP_RELEASE;
        work_on(&s, &claim);
        s.script.how = HUB_UNKNOWN;
        script_state(&s.script, HUB_DOWN, "away");
        hubs_drain(s.hubs, on_drained, &s);
        script_state(&s.script, HUB_DOWN, "away");
        hubs_hurry(s.hubs);
        WAIT(&s, s.drained);
        assert_int_equal(count_records(&s, ".end"), 0);
        start_again(&s);
        o = wait_orders(&s, 2);
        assert_int_equal(o->kind, DID_COMPLETE);
        wait_quiet(&s);
        finish(&s);
}

static void limit_files(rlim_t n)
{
        struct rlimit limit;

        assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
        limit.rlim_cur = MIN(n, limit.rlim_max);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* A full disk: nothing is claimed, however long it lasts, until a record can be written again. */
static void nothing_is_claimed_until_a_note_can_be_written(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", CHAT);
        usec_t tried;

        (void)signal(SIGXFSZ, SIG_IGN);
        begin_ready(&s, *state, ONE_MODEL);
        limit_files(0);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        assert_int_equal(wait_orders(&s, 1)->kind, DID_RELEASE);
        WAIT(&s, s.script.total == 0);
        for (unsigned i = 0; i < 2; i++) {
                tried = claims_failures(lab(&s)->claims, &(int){0});
                look_again(&s);
                WAIT(&s, claims_failures(lab(&s)->claims, &(int){0}) > tried && lab(&s)->look_at != 0);
                rest(&s);
                assert_int_equal(s.script.total, 0);
        }
        assert_non_null(strstr(hubs_report(s.hubs, 0)->last_error, "nothing is claimed"));
        limit_files(RLIM_INFINITY);
        look_again(&s);
        WAIT(&s, s.script.total == 2);
        claim.id = "j2";
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        assert_int_equal(wait_orders(&s, 2)->kind, DID_COMPLETE);
        wait_quiet(&s);
        finish(&s);
}

/* The same where it is known at once that no note can be made. */
static void nor_when_the_note_cannot_be_made(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", CHAT);
        struct job *j;

        begin_ready(&s, *state, ONE_MODEL);
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        j = connector_find(lab(&s), "j1");
        /* Its line is longer than the journal takes. */
        free(j->path);
        j->path = calloc(1, CLAIMS_HEAD_MAX + 1);
        memset(j->path, 'x', CLAIMS_HEAD_MAX);
        claims_forget(lab(&s)->claims, j);
        job_note(j);
        assert_int_equal(wait_orders(&s, 1)->kind, DID_RELEASE);
        WAIT(&s, s.script.total == 0);
        WAIT(&s, s.script.total == 2); /* a record can be written, as is found out by itself */
        finish(&s);
}

static void wait_run(struct scene *s, unsigned run)
{
        const struct job *j;

        WAIT(s,
             (j = connector_find(lab(s), "j1")) && j->state == JOB_WORKING && j->relay && j->pub.run == run);
}

static void die(struct scene *s)
{
        end_daemon(s);
        open_hubs(s, false);
}

/* A job that takes the daemon with it, at a hub that can only be told of a failure: it is tried once more, and then no more. */
static void what_kills_the_daemon_is_not_tried_for_ever(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);

        begin_ready(&s, *state, SLOW);
        s.script.driver.caps &= ~(unsigned)HUB_CAP_RELEASE;
        assert_int_equal(script_deliver(&s.script, &claim), 0);
        wait_run(&s, 1);
        die(&s);
        wait_run(&s, 2);
        die(&s);
        assert_int_equal(wait_orders(&s, 2)->kind, DID_FAIL);
        assert_int_equal(s.script.orders[1].fail, HUB_FAIL_RETRY);
        assert_int_equal(s.script.orders[1].run, 2);
        wait_quiet(&s);
        finish(&s);
}

/* A llama-server that died of it counts as well. */
static void a_death_of_its_server_is_counted_on_disk(void **state)
{
        struct scene s;
        struct hub_claim claim = script_claim("j1", LONG);

        begin_ready(&s, *state, SLOW);
        s.script.driver.caps &= ~(unsigned)HUB_CAP_RELEASE;
        work_on(&s, &claim);
        assert_int_equal(kill(fleet_find(s.world->fleet, "q")->pid, SIGKILL), 0);
        wait_run(&s, 2);
        die(&s);
        assert_int_equal(wait_orders(&s, 2)->kind, DID_FAIL);
        wait_quiet(&s);
        finish(&s);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
                T(a_journal_has_one_owner),
                T(a_hub_that_cannot_be_opened_is_opened_later),
                T(the_lock_is_had_from_the_program_before),
                T(what_cannot_be_read_now_is_read_later),
                T(what_cannot_be_adopted_now_is_adopted_later),
                T(an_upgrade_goes_on_however_late),
                T(more_records_than_are_read_at_a_time),
                T(a_disk_that_does_not_answer_holds_up_nobody),
                T(a_hub_that_comes_back_while_records_are_read),
                T(a_stop_while_the_hub_is_away_is_no_try),
                T(what_nobody_tried_is_no_try_after_a_crash),
                T(where_nothing_can_be_given_back_it_is_done_again),
                T(nothing_is_claimed_until_a_note_can_be_written),
                T(nor_when_the_note_cannot_be_made),
                T(what_kills_the_daemon_is_not_tried_for_ever),
                T(a_death_of_its_server_is_counted_on_disk),
#undef T
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

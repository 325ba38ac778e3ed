/* The loop of one process of `jackfield bench`: many connections to one address, each asking and checking the replies.
 * The twin of Load in src/jackfield/bench/loop.py, which says what each rule is for.
 *
 * Nothing here touches an object while the loop runs, so the GIL is given back for all of run(). All times are
 * nanoseconds of CLOCK_MONOTONIC, the clock of time.monotonic_ns(). */
#include "native.h"

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MILLISECOND INT64_C(1000000)
#define FIRST_PAUSE (10 * MILLISECOND) /* before a connection that failed is opened again; it doubles */
#define TICK (10 * MILLISECOND)        /* how often it is looked who has waited too long */
enum { PAUSE_DOUBLINGS = 7, EVENTS = 512, PIECE = 1 << 18, SAMPLE = 64, LARGEST_FRAME = 1 << 26, TIMER = UINT32_MAX };

/* As in src/jackfield/bench/histogram.py: 256 buckets for each power of two, and each of the first 256 by itself. */
enum { PRECISION = 8, BUCKETS = (64 - PRECISION + 1) << PRECISION };

/* As in src/jackfield/bench/plan.py. */
enum framing { EXACT, ANY, LINE, U32, NETSTRING };
enum fault { CONNECT, CLOSED, WRONG, TIMEOUT, LOST, FAULTS };

typedef struct {
    int fd;           /* -1: closed */
    char connecting;  /* not known yet whether anybody answers */
    char wants_room;  /* epoll is to say when more can be sent */
    char queued;      /* in the line of those that can take a request */
    char phase;       /* of the frame that comes in */
    char failures;    /* since the last reply */
    uint32_t head;    /* of that frame, as far as it has come */
    uint32_t waiting; /* requests without a reply */
    uint32_t oldest;  /* where the first of them is in `times` */
    size_t unsent;    /* bytes */
    size_t sent;      /* of the request that went out in part */
    size_t got;       /* bytes of the reply that comes in */
    int64_t moved;    /* when the last reply came, or the first request went out after that */
    int64_t open_at;  /* closed: not before */
} Link;

typedef struct {
    PyObject_HEAD
    int epoll, timer, family, kind, protocol;
    struct sockaddr_storage address;
    socklen_t address_size;
    enum framing framing;
    char streams, once, stopped, failed;
    uint32_t count, depth; /* connections; requests on their way on each */
    size_t request_size, reply_size, requests_size, unit; /* `unit`: what an unsent request counts, if empty as well */
    char *requests, *reply; /* `requests` holds as many as are ever sent at once */
    double rate;            /* a second; 0: a closed loop */
    int64_t ramp, start, warm, end, budget, timeout, next_tick;
    Link *links;
    int64_t *times; /* when each request was, or had to be, sent: `depth` for each link */
    uint32_t *line, line_first, line_count;
    int64_t issued, next_due, waiting;
    int64_t asked, replied, measured, opened, sent_bytes, received_bytes, faults[FAULTS];
    int fault_errno[FAULTS];
    char sample[SAMPLE];
    int sample_size;
    double sum, squares;
    int64_t least, most;
    char *piece;
    uint64_t *buckets;
} Load;

Py_ssize_t alive_loads;

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* -- latencies ----------------------------------------------------------------------------------------------------- */

static size_t bucket_of(uint64_t value) {
    if (value >> PRECISION == 0)
        return (size_t)value;
    int shift = 63 - __builtin_clzll(value) - PRECISION;
    return ((size_t)shift << PRECISION) + (size_t)(value >> shift);
}

static void record(Load *load, int64_t nanoseconds) {
    if (nanoseconds < 0)
        nanoseconds = 0;
    load->buckets[bucket_of((uint64_t)nanoseconds)]++;
    if (load->measured++ == 0 || nanoseconds < load->least)
        load->least = nanoseconds;
    if (nanoseconds > load->most)
        load->most = nanoseconds;
    load->sum += (double)nanoseconds;
    load->squares += (double)nanoseconds * (double)nanoseconds;
}

/* -- what may be asked, and when ------------------------------------------------------------------------------------- */

static int may_ask(const Load *load, int64_t time) {
    return !load->stopped && load->budget != 0 && (load->end == 0 || time < load->end);
}

/* When request `number` of an open loop is due. */
static int64_t due_at(const Load *load, int64_t number) {
    double seconds = (double)load->ramp / 1e9, during = load->rate * seconds / 2;
    double after = (double)number < during ? sqrt(2 * (double)number * seconds / load->rate)
                                           : seconds / 2 + (double)number / load->rate;
    return load->start + (int64_t)(after * 1e9);
}

static void spend(Load *load, int64_t time) {
    if (load->budget > 0 && time >= load->warm)
        load->budget--;
}

static void issue(Load *load, Link *link, int64_t due, int64_t time) {
    uint32_t index = (uint32_t)(link - load->links), place = (link->oldest + link->waiting) % load->depth;
    load->times[(size_t)index * load->depth + place] = due;
    if (link->waiting++ == 0)
        link->moved = time;
    link->unsent += load->unit;
    load->waiting++;
    load->asked++;
    spend(load, time);
}

static void stand_in_line(Load *load, Link *link) {
    if (link->queued || link->waiting >= load->depth)
        return;
    link->queued = 1;
    load->line[(load->line_first + load->line_count++) % load->count] = (uint32_t)(link - load->links);
}

/* -- connections ----------------------------------------------------------------------------------------------------- */

static void fail(Load *load, Link *link, enum fault fault, int number, int64_t time);

static void watch(Load *load, Link *link, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (link->wants_room ? EPOLLOUT : 0),
                                .data.u32 = (uint32_t)(link - load->links)};
    epoll_ctl(load->epoll, operation, link->fd, &event);
}

static void end_link(Load *load, Link *link, int64_t open_at) {
    if (link->fd >= 0)
        close(link->fd); /* which epoll forgets with it */
    load->waiting -= link->waiting;
    link->fd = -1;
    link->connecting = link->wants_room = link->phase = 0;
    link->head = link->waiting = link->oldest = 0;
    link->unsent = link->sent = link->got = 0;
    link->open_at = open_at;
}

/* Sends what is to be sent as far as the kernel takes it. */
static void push(Load *load, Link *link, int64_t time) {
    while (link->unsent > 0) {
        size_t size = load->requests_size - link->sent;
        if (size > link->unsent)
            size = link->unsent;
        if (!load->streams)
            size = load->request_size;
        ssize_t taken = send(link->fd, load->requests + link->sent, size, MSG_NOSIGNAL);
        if (taken < 0) {
            if (errno == EAGAIN || errno == EINTR)
                break;
            fail(load, link, link->connecting || errno == ECONNREFUSED ? CONNECT : CLOSED, errno, time);
            return;
        }
        load->sent_bytes += taken;
        link->unsent -= load->streams ? (size_t)taken : load->unit;
        link->sent = load->streams ? (link->sent + (size_t)taken) % load->request_size : 0;
        if (link->connecting) {
            link->connecting = 0;
            load->opened++;
        }
        if ((size_t)taken < size)
            break;
    }
    char wants_room = link->unsent > 0 || link->connecting;
    if (wants_room != link->wants_room) {
        link->wants_room = wants_room;
        watch(load, link, EPOLL_CTL_MOD);
    }
}

static void fill(Load *load, Link *link, int64_t time) {
    if (load->rate > 0) {
        if (!load->once)
            stand_in_line(load, link);
        return;
    }
    while (link->waiting < load->depth && may_ask(load, time))
        issue(load, link, time, time);
    push(load, link, time);
}

static void open_link(Load *load, Link *link, int64_t time, int64_t due) {
    link->fd = socket(load->family, load->kind | SOCK_NONBLOCK | SOCK_CLOEXEC, load->protocol);
    if (link->fd < 0) {
        fail(load, link, CONNECT, errno, time);
        return;
    }
    int on = 1;
    if (load->streams && load->family != AF_UNIX && !load->once)
        setsockopt(link->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (load->family == AF_UNIX && load->kind == SOCK_DGRAM) {
        /* A name of the kernel's choice (unix(7), autobind), or nobody could answer. */
        struct sockaddr_un nameless = {.sun_family = AF_UNIX};
        bind(link->fd, (struct sockaddr *)&nameless, sizeof(sa_family_t));
    }
    int refused = connect(link->fd, (struct sockaddr *)&load->address, load->address_size);
    if (refused && errno != EINPROGRESS) {
        fail(load, link, CONNECT, errno, time);
        return;
    }
    link->connecting = refused != 0;
    load->opened += !refused;
    link->moved = time;
    if (load->once) {
        issue(load, link, due, time);
        /* Over loopback the handshake is done when connect() returns, though it says that it is in progress: what is
         * sent at once saves a turn of epoll. Should it be told of the descriptor too early, it only says so. */
        push(load, link, time);
        if (link->fd >= 0)
            watch(load, link, EPOLL_CTL_ADD);
        return;
    }
    link->wants_room = link->connecting;
    watch(load, link, EPOLL_CTL_ADD);
    if (!link->connecting)
        fill(load, link, time);
}

/* Ends a connection for a fault, which counts each request that has no reply, or itself. */
static void fail(Load *load, Link *link, enum fault fault, int number, int64_t time) {
    if (link->waiting == 0) {
        if (!may_ask(load, time)) { /* nobody wants this connection any more */
            end_link(load, link, time);
            return;
        }
        spend(load, time);
    }
    load->faults[fault] += link->waiting > 0 ? link->waiting : 1;
    if (load->fault_errno[fault] == 0)
        load->fault_errno[fault] = number;
    int64_t pause = FIRST_PAUSE << link->failures;
    if (link->failures < PAUSE_DOUBLINGS)
        link->failures++;
    end_link(load, link, time + pause);
}

/* -- replies --------------------------------------------------------------------------------------------------------- */

static void complete(Load *load, Link *link, int64_t time) {
    uint32_t index = (uint32_t)(link - load->links);
    int64_t began = load->times[(size_t)index * load->depth + link->oldest];
    link->oldest = link->oldest + 1 == load->depth ? 0 : link->oldest + 1;
    link->waiting--;
    link->moved = time;
    link->failures = 0;
    load->waiting--;
    load->replied++;
    if (began >= load->warm && (load->end == 0 || began < load->end))
        record(load, time - began);
}

static int take_wrong(Load *load, Link *link, const char *data, size_t size, int64_t time) {
    if (load->faults[WRONG] == 0) {
        load->sample_size = (int)(size < SAMPLE ? size : SAMPLE);
        memcpy(load->sample, data, (size_t)load->sample_size);
    }
    fail(load, link, WRONG, 0, time);
    return -1;
}

/* How many bytes of `data` belong to the reply that comes in, and whether it is complete with them; 0 if they cannot. */
static size_t take_frame(Load *load, Link *link, const char *data, size_t size, int *whole) {
    size_t taken = 0;
    *whole = 0;
    switch (load->framing) {
    case EXACT:
        taken = load->reply_size - link->got < size ? load->reply_size - link->got : size;
        if (memcmp(data, load->reply + link->got, taken))
            return 0;
        link->got += taken;
        *whole = link->got == load->reply_size;
        break;
    case ANY:
        taken = size;
        *whole = 1;
        break;
    case LINE: {
        const char *end = memchr(data, '\n', size);
        *whole = end != NULL;
        taken = *whole ? (size_t)(end - data) + 1 : size;
        link->got += taken;
        if (link->got > LARGEST_FRAME)
            return 0;
        break;
    }
    case U32:
        for (; taken < size && link->phase < 4; link->phase++)
            link->head = link->head << 8 | (unsigned char)data[taken++];
        if (link->phase < 4)
            break;
        if (link->head > LARGEST_FRAME)
            return 0;
        size_t more = link->head - link->got < size - taken ? link->head - link->got : size - taken;
        taken += more;
        link->got += more;
        *whole = link->got == link->head;
        break;
    case NETSTRING:
        while (taken < size && !*whole) {
            char byte = data[taken];
            if (link->phase == 100) {
                size_t some = link->head - link->got < size - taken ? link->head - link->got : size - taken;
                taken += some;
                link->got += some;
                if (link->got == link->head && taken < size) {
                    if (data[taken++] != ',')
                        return 0;
                    *whole = 1;
                }
            } else if (byte >= '0' && byte <= '9' && link->phase < 8) {
                link->head = link->head * 10 + (uint32_t)(byte - '0');
                link->phase++;
                taken++;
            } else if (byte == ':' && link->phase > 0) {
                link->phase = 100;
                taken++;
            } else
                return 0;
        }
        break;
    }
    if (*whole) {
        link->got = link->head = 0;
        link->phase = 0;
    }
    return taken;
}

/* Checks what has come in; -1 if that has ended the connection. */
static int take(Load *load, Link *link, const char *data, size_t size, int64_t time) {
    int whole;
    if (!load->streams) {
        if (link->waiting == 0 ||
            (load->framing == EXACT && (size != load->reply_size || memcmp(data, load->reply, size))))
            return take_wrong(load, link, data, size, time);
        complete(load, link, time);
        return 0;
    }
    for (size_t at = 0; at < size;) {
        size_t taken = link->waiting ? take_frame(load, link, data + at, size - at, &whole) : 0;
        if (taken == 0)
            return take_wrong(load, link, data + at, size - at, time);
        at += taken;
        if (whole)
            complete(load, link, time);
    }
    return 0;
}

static void receive(Load *load, Link *link, int64_t time) {
    ssize_t size = recv(link->fd, load->piece, PIECE, 0);
    if (size < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return;
        fail(load, link, link->connecting || errno == ECONNREFUSED ? CONNECT : CLOSED, errno, time);
        return;
    }
    if (size == 0 && load->kind != SOCK_DGRAM) {
        if (link->waiting > 0) {
            fail(load, link, CLOSED, 0, time);
            return;
        }
        /* Nothing was asked of it: servers do end idle connections. */
        int64_t pause = FIRST_PAUSE << link->failures;
        if (link->failures < PAUSE_DOUBLINGS)
            link->failures++;
        end_link(load, link, time + pause);
        return;
    }
    load->received_bytes += size;
    uint32_t waiting = link->waiting;
    time = now();
    if (take(load, link, load->piece, (size_t)size, time) < 0 || link->waiting == waiting)
        return;
    if (!load->once)
        fill(load, link, time);
    else if (link->waiting == 0) {
        end_link(load, link, 0);
        if (load->rate > 0)
            stand_in_line(load, link);
        else if (may_ask(load, time))
            open_link(load, link, time, time);
    }
}

/* -- the loop -------------------------------------------------------------------------------------------------------- */

/* Opens what is to be opened by now, and gives up what has waited too long. */
static void look_around(Load *load, int64_t time) {
    for (uint32_t index = 0; index < load->count; index++) {
        Link *link = &load->links[index];
        if (link->fd < 0) {
            if (link->open_at > time || !may_ask(load, time))
                continue;
            if (load->once && load->rate > 0)
                stand_in_line(load, link);
            else
                open_link(load, link, time, time);
        } else if ((link->waiting > 0 || link->connecting) && time - link->moved >= load->timeout) {
            int number = link->connecting ? ETIMEDOUT : 0;
            fail(load, link, link->connecting ? CONNECT : load->kind == SOCK_DGRAM ? LOST : TIMEOUT, number, time);
            link->open_at = time; /* it has waited long enough */
        }
    }
}

/* Gives each request that is due to whoever can take it, in turn; -1 once none is left, else when the next is due. */
static int64_t hand_out(Load *load, int64_t time) {
    for (; load->line_count > 0; load->next_due = due_at(load, ++load->issued)) {
        if (!may_ask(load, time) || !may_ask(load, load->next_due))
            return -1;
        if (load->next_due > time)
            return load->next_due;
        Link *link = &load->links[load->line[load->line_first]];
        load->line_first = (load->line_first + 1) % load->count;
        load->line_count--;
        link->queued = 0;
        if (load->once) {
            if (link->fd < 0)
                open_link(load, link, time, load->next_due);
            continue;
        }
        if (link->fd < 0 || link->connecting) { /* ended while it stood in line */
            load->issued--;
            continue;
        }
        issue(load, link, load->next_due, time);
        stand_in_line(load, link);
        push(load, link, time);
    }
    return -1;
}

static void be_woken(Load *load, int64_t time) {
    struct itimerspec when = {.it_value = {.tv_sec = time / 1000000000, .tv_nsec = time % 1000000000}};
    timerfd_settime(load->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static int is_over(const Load *load, int64_t time) {
    return load->stopped || (!may_ask(load, time) && load->waiting == 0);
}

static void go_on(Load *load, int64_t until) {
    struct epoll_event events[EVENTS];
    for (int64_t time = now(); time < until && !is_over(load, time); time = now()) {
        if (time >= load->next_tick) {
            look_around(load, time);
            load->next_tick = time + TICK;
        }
        int64_t wake = load->next_tick < until ? load->next_tick : until;
        if (load->rate > 0) {
            int64_t due = hand_out(load, time);
            if (due >= 0 && due < wake)
                be_woken(load, due);
        }
        if (load->end > time && load->end < wake)
            wake = load->end;
        int64_t left = wake - now();
        int ready = epoll_wait(load->epoll, events, EVENTS, left <= 0 ? 0 : (int)(left / MILLISECOND) + 1);
        if (ready < 0)
            return; /* a signal: whoever called sees to it */
        time = ready > 0 ? now() : time;
        for (int place = 0; place < ready; place++) {
            if (events[place].data.u32 == TIMER) {
                uint64_t times;
                if (read(load->timer, &times, sizeof times) > 0)
                    continue; /* it has only to wake */
                continue;
            }
            Link *link = &load->links[events[place].data.u32];
            if (link->fd < 0)
                continue; /* ended earlier in this batch */
            if (link->connecting) {
                int number = 0;
                socklen_t size = sizeof number;
                getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &number, &size);
                if (number || !(events[place].events & EPOLLOUT)) {
                    fail(load, link, CONNECT, number, time);
                    continue;
                }
                link->connecting = 0;
                load->opened++;
                if (load->once)
                    push(load, link, time);
                else {
                    fill(load, link, time);
                    if (link->fd >= 0)
                        push(load, link, time);
                }
                continue;
            }
            if (events[place].events & EPOLLOUT)
                push(load, link, time);
            if (link->fd >= 0 && events[place].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
                receive(load, link, time);
        }
    }
}

/* -- the object ------------------------------------------------------------------------------------------------------ */

static int set_address(Load *load, int family, const char *host, Py_ssize_t size, int port, unsigned scope) {
    struct sockaddr_in *v4 = (struct sockaddr_in *)&load->address;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&load->address;
    struct sockaddr_un *path = (struct sockaddr_un *)&load->address;
    load->address.ss_family = (sa_family_t)family;
    if (family == AF_INET && inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_port = htons((uint16_t)port);
        load->address_size = sizeof *v4;
        return 0;
    }
    if (family == AF_INET6 && inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_port = htons((uint16_t)port);
        v6->sin6_scope_id = scope;
        load->address_size = sizeof *v6;
        return 0;
    }
    if (family == AF_UNIX && size > 0 && (size_t)size < sizeof path->sun_path + (host[0] == 0)) {
        memcpy(path->sun_path, host, (size_t)size);
        /* An abstract name is as long as it is; a path ends with its NUL (unix(7)). */
        load->address_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)size + (host[0] != 0));
        return 0;
    }
    PyErr_SetString(PyExc_ValueError, "no address to connect to");
    return -1;
}

static int prepare(Load *load, const Py_buffer *request, const Py_buffer *reply) {
    uint32_t most = load->streams ? load->depth : 1;
    load->request_size = (size_t)request->len;
    load->reply_size = (size_t)reply->len;
    load->unit = load->request_size ? load->request_size : 1;
    load->requests_size = load->request_size * most;
    load->requests = PyMem_RawMalloc(load->requests_size + 1);
    load->reply = PyMem_RawMalloc(load->reply_size + 1);
    load->piece = PyMem_RawMalloc(PIECE);
    load->links = PyMem_RawCalloc(load->count, sizeof(Link));
    load->line = PyMem_RawCalloc(load->count, sizeof *load->line);
    load->times = PyMem_RawCalloc((size_t)load->count * load->depth, sizeof *load->times);
    load->buckets = PyMem_RawCalloc(BUCKETS, sizeof *load->buckets);
    if (!load->requests || !load->reply || !load->piece || !load->links || !load->line || !load->times ||
        !load->buckets) {
        PyErr_NoMemory();
        return -1;
    }
    for (uint32_t copy = 0; copy < most; copy++)
        memcpy(load->requests + copy * load->request_size, request->buf, load->request_size);
    memcpy(load->reply, reply->buf, load->reply_size);
    for (uint32_t index = 0; index < load->count; index++) {
        load->links[index].fd = -1;
        load->links[index].open_at = load->start + (int64_t)((double)load->ramp * index / load->count);
    }
    load->next_due = due_at(load, 0);
    load->next_tick = load->start;
    load->epoll = epoll_create1(EPOLL_CLOEXEC);
    load->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = TIMER};
    if (load->epoll < 0 || load->timer < 0 || epoll_ctl(load->epoll, EPOLL_CTL_ADD, load->timer, &event)) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

static void close_all(Load *load) {
    for (uint32_t index = 0; load->links && index < load->count; index++)
        if (load->links[index].fd >= 0)
            end_link(load, &load->links[index], 0);
    if (load->epoll >= 0)
        close(load->epoll);
    if (load->timer >= 0)
        close(load->timer);
    load->epoll = load->timer = -1;
    load->stopped = 1;
}

static void Load_dealloc(Load *load) {
    close_all(load);
    PyMem_RawFree(load->requests);
    PyMem_RawFree(load->reply);
    PyMem_RawFree(load->piece);
    PyMem_RawFree(load->links);
    PyMem_RawFree(load->line);
    PyMem_RawFree(load->times);
    PyMem_RawFree(load->buckets);
    alive_loads--;
    Py_TYPE(load)->tp_free(load);
}

/* ((family, kind, protocol, host, port, scope), request, reply, framing, connections, depth, once, rate, ramp, start,
 * warm, end, budget, timeout) */
static PyObject *Load_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    int family, kind, protocol, port, framing, once;
    unsigned scope, count, depth;
    const char *host;
    Py_ssize_t host_size;
    Py_buffer request = {0}, reply = {0};
    double rate;
    long long ramp, start, warm, end, budget, timeout;
    if (!PyArg_ParseTuple(args, "(iiiy#iI)y*y*iIIpdLLLLLL", &family, &kind, &protocol, &host, &host_size, &port, &scope,
                          &request, &reply, &framing, &count, &depth, &once, &rate, &ramp, &start, &warm, &end, &budget,
                          &timeout)) {
        PyBuffer_Release(&request);
        PyBuffer_Release(&reply);
        return NULL;
    }
    Load *load = NULL;
    if (count < 1 || depth < 1 || framing < EXACT || framing > NETSTRING || !(rate >= 0))
        PyErr_SetString(PyExc_ValueError, "no load");
    else if ((load = (Load *)type->tp_alloc(type, 0)) != NULL) {
        alive_loads++;
        load->epoll = load->timer = -1;
        load->family = family, load->kind = kind, load->protocol = protocol;
        load->framing = (enum framing)framing;
        load->streams = kind == SOCK_STREAM, load->once = (char)once;
        load->count = count, load->depth = depth;
        load->rate = rate, load->ramp = ramp, load->start = start, load->warm = warm, load->end = end;
        load->budget = budget, load->timeout = timeout;
        if (set_address(load, family, host, host_size, port, scope) < 0 || prepare(load, &request, &reply) < 0)
            Py_CLEAR(load);
    }
    PyBuffer_Release(&request);
    PyBuffer_Release(&reply);
    return (PyObject *)load;
}

static PyObject *Load_run(Load *load, PyObject *until) {
    long long time = PyLong_AsLongLong(until);
    if (time == -1 && PyErr_Occurred())
        return NULL;
    if (load->epoll < 0)
        Py_RETURN_FALSE;
    Py_BEGIN_ALLOW_THREADS
    go_on(load, time);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(!is_over(load, now()));
}

static PyObject *Load_close(Load *load, PyObject *unused) {
    close_all(load);
    Py_RETURN_NONE;
}

static PyObject *Load_counts(Load *load, PyObject *unused) {
    int64_t overdue = 0, until = load->end && load->end < now() ? load->end : now();
    if (load->rate > 0 && load->next_due < until) {
        double passed = (double)(until - load->start - load->ramp / 2) / 1e9;
        overdue = (int64_t)ceil(passed * load->rate - 1e-6) - load->issued;
    }
    return Py_BuildValue("{sLsLsLsLsLsLsLsLsLsLsLsLsdsdsLsL}", "asked", load->asked, "replied", load->replied,
                         "measured", load->measured, "opened", load->opened, "sent",
                         load->sent_bytes, "received", load->received_bytes, "connect", load->faults[CONNECT], "closed",
                         load->faults[CLOSED], "wrong", load->faults[WRONG], "timeout", load->faults[TIMEOUT], "lost",
                         load->faults[LOST], "overdue", overdue > 0 ? overdue : (int64_t)0, "sum", load->sum,
                         "squares", load->squares, "least", load->least, "most", load->most);
}

static PyObject *Load_buckets(Load *load, PyObject *unused) {
    PyObject *found = PyDict_New();
    for (size_t bucket = 0; found != NULL && bucket < BUCKETS; bucket++) {
        if (load->buckets[bucket] == 0)
            continue;
        PyObject *key = PyLong_FromSize_t(bucket), *value = PyLong_FromUnsignedLongLong(load->buckets[bucket]);
        if (key == NULL || value == NULL || PyDict_SetItem(found, key, value) < 0)
            Py_CLEAR(found);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    return found;
}

static PyObject *Load_reasons(Load *load, PyObject *unused) {
    return Py_BuildValue("{sisisy#}", "connect", load->fault_errno[CONNECT], "closed", load->fault_errno[CLOSED],
                         "wrong", load->sample, (Py_ssize_t)load->sample_size);
}

static PyMethodDef methods[] = {
    {"run", (PyCFunction)Load_run, METH_O, NULL},
    {"close", (PyCFunction)Load_close, METH_NOARGS, NULL},
    {"counts", (PyCFunction)Load_counts, METH_NOARGS, NULL},
    {"buckets", (PyCFunction)Load_buckets, METH_NOARGS, NULL},
    {"reasons", (PyCFunction)Load_reasons, METH_NOARGS, NULL},
    {NULL},
};

PyTypeObject Load_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jackfield.reactor._native.Load",
    .tp_basicsize = sizeof(Load),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = Load_new,
    .tp_dealloc = (destructor)Load_dealloc,
    .tp_methods = methods,
};

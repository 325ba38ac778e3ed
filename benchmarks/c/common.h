/* What the programs of this folder share: time, latencies, messages, connections. */
#ifndef JACKFIELD_COMMON_H
#define JACKFIELD_COMMON_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND UINT64_C(1000000000) /* in nanoseconds, as all times here */

/* What is still on its way when the time is over may take so long; then it is lost. */
#define PATIENCE (5 * SECOND)

/* The first fifth of a run warms caches up and is left out of rates and latencies. */
#define WARM_UP 0.2

static inline void fail(const char *what) {
    perror(what);
    exit(1);
}

static inline uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static inline void *allocate(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory) fail("calloc");
    return memory;
}

/* -- latencies -------------------------------------------------------------------------------------------------- */

#define BUCKET 100                   /* nanoseconds */
#define BUCKETS (SECOND / BUCKET)    /* the last one also counts everything longer; untouched ones cost no memory */

struct latencies {
    uint64_t count;
    uint32_t buckets[BUCKETS];
};

static inline void record(struct latencies *latencies, uint64_t nanoseconds) {
    uint64_t bucket = nanoseconds / BUCKET;
    latencies->buckets[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    latencies->count++;
}

/* Microseconds that a share of them did not exceed. */
static inline double quantile(const struct latencies *latencies, double share) {
    uint64_t seen = 0;
    for (uint64_t bucket = 0; bucket < BUCKETS; bucket++) {
        seen += latencies->buckets[bucket];
        if (seen && (double)seen >= (double)latencies->count * share) return (double)(bucket + 1) * BUCKET / 1e3;
    }
    return 0;
}

/* Whether a run is over. One in which nothing could be counted in its time, neither a latency nor a fault, because the
 * machine was busy with other things, goes on until something is. */
static inline bool is_over(uint64_t time, uint64_t end, uint64_t counted) {
    return time >= end && (counted || time >= end + PATIENCE);
}

/* The line of JSON that a load ends with; `name` and `value` are what only this load has, NULL for nothing. */
static inline void report(uint64_t requests, double seconds, const struct latencies *latencies, uint64_t wrong,
                          uint64_t lost, const char *name, uint64_t value) {
    printf("{\"requests\": %" PRIu64 ", \"per_second\": %.1f", requests,
           (double)latencies->count / (seconds * (1 - WARM_UP)));
    printf(", \"p50_us\": %.1f, \"p99_us\": %.1f", quantile(latencies, 0.5), quantile(latencies, 0.99));
    if (name) printf(", \"%s\": %" PRIu64, name, value);
    printf(", \"wrong\": %" PRIu64 ", \"lost\": %" PRIu64 "}\n", wrong, lost);
}

/* -- messages ---------------------------------------------------------------------------------------------------- */

/* Every message begins with the number of its connection and its own, in letters: a reply that was meant for another
 * connection or an earlier message does not pass for the right one. */
#define HEAD_CONNECTION 6
#define HEAD_NUMBER 10
#define HEAD (HEAD_CONNECTION + HEAD_NUMBER)

static inline void put_number(char *where, int letters, uint64_t number, char first) {
    for (int place = letters - 1; place >= 0; place--, number >>= 4) where[place] = (char)(first + (number & 15));
}

static inline void put_head(char *message, uint32_t connection, uint64_t number, char first) {
    put_number(message, HEAD_CONNECTION, connection, first);
    put_number(message + HEAD_CONNECTION, HEAD_NUMBER, number, first);
}

static inline void put_alphabet(char *where, size_t size, char first) {
    for (size_t place = 0; place < size; place++) where[place] = (char)(first + place % 26);
}

/* What the servers do: white space off at the end as bytes.strip() does, lower case to upper case. */
static inline size_t strip_upper(char *data, size_t size) {
    while (size && (data[size - 1] == ' ' || (data[size - 1] >= '\t' && data[size - 1] <= '\r'))) size--;
    for (size_t place = 0; place < size; place++)
        if (data[place] >= 'a' && data[place] <= 'z') data[place] = (char)(data[place] - 'a' + 'A');
    return size;
}

/* -- sockets ----------------------------------------------------------------------------------------------------- */

static inline struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static inline void no_delay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* A blocking TCP connection to a port of loopback. */
static inline int connected(int port) {
    struct sockaddr_in address = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) fail("socket");
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    no_delay(fd);
    return fd;
}

static inline void never_block(int fd) {
    if (fcntl(fd, F_SETFL, O_NONBLOCK)) fail("fcntl");
}

static inline void watch(int epoll, int operation, int fd, uint32_t events, uint32_t number) {
    struct epoll_event event = {.events = events, .data.u32 = number};
    if (epoll_ctl(epoll, operation, fd, &event)) fail("epoll_ctl");
}

/* Binds a socket to a free port of loopback and says which on standard output. */
static inline void bind_and_say(int fd) {
    struct sockaddr_in address = loopback(0);
    socklen_t length = sizeof address;
    if (fd < 0) fail("socket");
    if (bind(fd, (struct sockaddr *)&address, length)) fail("bind");
    /* As large as the system allows: no benchmark is about how many clients may wait. */
    int type;
    socklen_t type_length = sizeof type;
    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_length);
    if (type == SOCK_STREAM && listen(fd, 65535)) fail("listen");
    getsockname(fd, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
}

#endif

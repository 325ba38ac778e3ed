/* Load for a TCP echo server: so many connections, each with one message on its way at any time.
 *
 * usage: echo_load PORT CONNECTIONS SECONDS BYTES upper|same
 *
 * Every message is another; every reply is compared with what is due, byte for byte, in upper case or as it was sent.
 * When the time is over nothing new is sent and what is on its way is waited for. One line of JSON at the end: wrong
 * counts replies that were not what was due, or that nobody had asked for; lost, connections that ended, or replies
 * that had not come by then.
 */
#include "common.h"

struct link {
    int fd;
    uint64_t number; /* of the message on its way */
    uint64_t sent_at;
    size_t sent, got;
    bool wants_room; /* the kernel did not take all of the message */
};

static int epoll;
static size_t size;
static char *message, *expected, *buffer;
static char first; /* letter of an expected number */
static struct link *links;
static uint64_t wrong, lost;
static uint32_t live;

static void give_up(uint32_t index, uint64_t *reason) {
    ++*reason;
    live--;
    close(links[index].fd); /* which epoll forgets with it */
    links[index].fd = -1;
}

static void push(uint32_t index) {
    struct link *link = &links[index];
    put_head(message, index, link->number, 'a');
    ssize_t taken = send(link->fd, message + link->sent, size - link->sent, MSG_NOSIGNAL);
    if (taken < 0 && errno != EAGAIN) {
        give_up(index, &lost);
        return;
    }
    link->sent += (size_t)(taken < 0 ? 0 : taken);
    bool wants_room = link->sent < size;
    if (wants_room != link->wants_room) {
        link->wants_room = wants_room;
        watch(epoll, EPOLL_CTL_MOD, link->fd, EPOLLIN | (wants_room ? EPOLLOUT : 0), index);
    }
}

static void ask(uint32_t index) {
    struct link *link = &links[index];
    link->number++;
    link->sent = link->got = 0;
    link->sent_at = now();
    push(index);
}

/* True when the reply is complete. */
static bool take(uint32_t index) {
    struct link *link = &links[index];
    ssize_t got = recv(link->fd, buffer, size - link->got, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) give_up(index, &lost);
        return false;
    }
    put_head(expected, index, link->number, first);
    if (memcmp(buffer, expected + link->got, (size_t)got)) {
        give_up(index, &wrong);
        return false;
    }
    link->got += (size_t)got;
    return link->got == size;
}

int main(int count, char **words) {
    static struct latencies latencies;
    if (count != 6) return fprintf(stderr, "usage: echo_load PORT CONNECTIONS SECONDS BYTES upper|same\n"), 2;
    uint32_t connections = (uint32_t)atoi(words[2]);
    double seconds = atof(words[3]);
    size = strtoul(words[4], NULL, 10);
    first = !strcmp(words[5], "upper") ? 'A' : 'a';
    if (size < HEAD) return fprintf(stderr, "a message has %d bytes at least\n", HEAD), 2;
    message = allocate(size, 1), expected = allocate(size, 1), buffer = allocate(size, 1);
    put_alphabet(message, size, 'a');
    put_alphabet(expected, size, first);
    links = allocate(connections, sizeof *links);
    epoll = epoll_create1(0);
    for (uint32_t index = 0; index < connections; index++) {
        links[index].fd = connected(atoi(words[1]));
        never_block(links[index].fd);
        watch(epoll, EPOLL_CTL_ADD, links[index].fd, EPOLLIN, index);
    }
    live = connections;
    uint64_t requests = 0, started = now();
    uint64_t warm = started + (uint64_t)(seconds * WARM_UP * SECOND), over = started + (uint64_t)(seconds * SECOND);
    for (uint32_t index = 0; index < connections; index++) ask(index);
    uint32_t waiting = live;
    struct epoll_event events[512];
    for (uint64_t time; waiting && (time = now()) < over + PATIENCE;) {
        int ready = epoll_wait(epoll, events, 512, 100);
        for (int place = 0; place < ready; place++) {
            uint32_t index = events[place].data.u32, alive = live;
            if (links[index].fd < 0) continue; /* given up earlier in this batch */
            if (links[index].wants_room) push(index);
            if (links[index].fd < 0 || !take(index)) {
                waiting -= alive - live;
                continue;
            }
            time = now();
            requests++;
            if (is_over(time, over, latencies.count + wrong + lost)) {
                waiting--;
                continue;
            }
            if (time > warm) record(&latencies, time - links[index].sent_at);
            ask(index);
            waiting -= alive - live;
        }
    }
    lost += waiting;
    for (uint32_t index = 0; index < connections; index++)
        if (links[index].fd >= 0 && recv(links[index].fd, buffer, 1, MSG_DONTWAIT) > 0) wrong++;
    report(requests, seconds, &latencies, wrong, lost, NULL, 0);
    return 0;
}

/* Load of short connections: connect, one exchange, half-close, wait for the end, close, again; so many at a time.
 *
 * usage: churn_load PORT AT_ONCE SECONDS
 *
 * The peer sees the half-close and ends first, so what lingers (TIME_WAIT) lingers here. A pair of addresses has some
 * 28,000 ports: connections come from twenty addresses in turn, of which loopback has plenty.
 *
 * When the time is over nothing new is begun and what has begun is waited for. One line of JSON at the end: wrong
 * counts replies that were not what was due, lost counts connections that could not be made, ended early or had not
 * ended by then.
 */
#include "common.h"

#define SIZE 64
#define ADDRESSES 20

enum stage { CONNECTING, ASKING, ENDING, DONE };

struct visit {
    int fd;
    enum stage stage;
    uint64_t began;
    size_t got;
};

static int epoll;
static struct sockaddr_in server;
static struct visit *visits;
static struct latencies latencies;
static uint64_t begun, wrong, lost;
static bool ended; /* the time is over: nothing new is begun */
static uint32_t live;
static char message[SIZE], expected[SIZE];

/* The next connection in this place, as long as there is time. */
static void begin(uint32_t index) {
    struct visit *visit = &visits[index];
    while (!ended) {
        visit->began = now();
        struct sockaddr_in source = loopback(0);
        source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)(begun++ % ADDRESSES));
        visit->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (visit->fd < 0) fail("socket");
        /* The port is chosen when it connects, where the whole pair of addresses is known (ip(7)). */
        int on = 1;
        setsockopt(visit->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(visit->fd, (struct sockaddr *)&source, sizeof source)) fail("bind");
        if (!connect(visit->fd, (struct sockaddr *)&server, sizeof server) || errno == EINPROGRESS) {
            visit->stage = CONNECTING;
            visit->got = 0;
            watch(epoll, EPOLL_CTL_ADD, visit->fd, EPOLLOUT, index);
            return;
        }
        lost++;
        close(visit->fd);
    }
    visit->stage = DONE;
    live--;
}

static void end(uint32_t index, uint64_t *counter) {
    ++*counter;
    close(visits[index].fd);
    begin(index);
}

static void ask(uint32_t index) {
    int fd = visits[index].fd, error = 0;
    socklen_t length = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    put_head(message, index, visits[index].began, 'a');
    if (error || send(fd, message, SIZE, MSG_NOSIGNAL) != SIZE) {
        end(index, &lost);
        return;
    }
    visits[index].stage = ASKING;
    watch(epoll, EPOLL_CTL_MOD, fd, EPOLLIN, index);
}

static void take(uint32_t index) {
    struct visit *visit = &visits[index];
    char buffer[SIZE];
    ssize_t got = recv(visit->fd, buffer, SIZE - visit->got, 0);
    if (got < 0 && errno == EAGAIN) return;
    put_head(expected, index, visit->began, 'A');
    if (got <= 0) {
        end(index, &lost);
    } else if (memcmp(buffer, expected + visit->got, (size_t)got)) {
        end(index, &wrong);
    } else if ((visit->got += (size_t)got) == SIZE) {
        shutdown(visit->fd, SHUT_WR);
        visit->stage = ENDING;
    }
}

int main(int count, char **words) {
    uint64_t requests = 0;
    if (count != 4) return fprintf(stderr, "usage: churn_load PORT AT_ONCE SECONDS\n"), 2;
    server = loopback(atoi(words[1]));
    live = (uint32_t)atoi(words[2]);
    double seconds = atof(words[3]);
    put_alphabet(message, SIZE, 'a');
    put_alphabet(expected, SIZE, 'A');
    visits = allocate(live, sizeof *visits);
    epoll = epoll_create1(0);
    uint64_t started = now(), warm = started + (uint64_t)(seconds * WARM_UP * SECOND);
    uint64_t over = started + (uint64_t)(seconds * SECOND), time;
    for (uint32_t index = 0, all = live; index < all; index++) begin(index);
    struct epoll_event events[256];
    while (live && (time = now()) < over + PATIENCE) {
        ended = is_over(time, over, latencies.count + wrong + lost);
        int ready = epoll_wait(epoll, events, 256, 100);
        for (int place = 0; place < ready; place++) {
            uint32_t index = events[place].data.u32;
            struct visit *visit = &visits[index];
            if (visit->stage == CONNECTING) {
                ask(index);
            } else if (visit->stage == ASKING) {
                take(index);
            } else {
                char none;
                ssize_t got = recv(visit->fd, &none, 1, 0);
                time = now();
                if (got < 0 && errno == EAGAIN) continue;
                if (got) {
                    end(index, got > 0 ? &wrong : &lost);
                    continue;
                }
                if (time > warm && !ended) record(&latencies, time - visit->began);
                end(index, &requests);
            }
        }
    }
    lost += live;
    report(requests, seconds, &latencies, wrong, lost, NULL, 0);
    return 0;
}

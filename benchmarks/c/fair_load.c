/* Many connections that ask seldom, alone or beside one that always has data: how long do the many wait?
 *
 * usage: fair_load PORT ASKERS SECONDS flood|alone
 *
 * Each asker sends a message every INTERVAL, one after another, evenly spread. The flood is one connection more that
 * sends as much as the kernel takes and reads as much as comes, without end. Every reply is compared, the flood's byte
 * for byte as well.
 *
 * When the time is over nothing new is sent and what is on its way is waited for. One line of JSON at the end:
 * latencies are the askers' only, flood_bytes is what the other has got back; wrong and lost as in echo_load.c.
 */
#include "common.h"

#include <sys/timerfd.h>

#define INTERVAL (SECOND / 50)
#define SIZE 64
#define STEP 16384             /* bytes of the flood in one turn: the askers' replies are not to wait for us */
#define FLOOD_BUFFER (1 << 18) /* bytes that may wait in the kernel: more than a server reads in a turn */
#define PERIOD 26              /* of the alphabet that the flood repeats */

struct asker {
    int fd;
    bool waits;
    uint64_t number, sent_at;
    size_t got;
};

static int epoll;
static struct asker *askers;
static struct latencies latencies;
static uint64_t requests, wrong, lost, warm;
static uint32_t waiting;
static bool ended; /* the time is over: nothing new is sent */
static char message[SIZE], expected[SIZE];

static int flood = -1;
static uint64_t flood_sent, flood_got;
static char flood_message[STEP + PERIOD], flood_expected[STEP + PERIOD];

/* -- the askers -------------------------------------------------------------------------------------------------- */

static void give_up(struct asker *asker, uint64_t *reason) {
    ++*reason;
    waiting -= asker->waits;
    asker->waits = false;
    close(asker->fd);
    asker->fd = -1;
}

static void ask(uint32_t index) {
    struct asker *asker = &askers[index];
    if (asker->fd < 0 || asker->waits) return; /* it still waits: its turn is passed over */
    asker->number++;
    asker->got = 0;
    asker->waits = true;
    waiting++;
    put_head(message, index, asker->number, 'a');
    asker->sent_at = now();
    if (send(asker->fd, message, SIZE, MSG_NOSIGNAL) != SIZE) give_up(asker, &lost);
}

static void take(uint32_t index) {
    struct asker *asker = &askers[index];
    char buffer[SIZE];
    if (asker->fd < 0) return;
    ssize_t got = recv(asker->fd, buffer, SIZE - (asker->waits ? asker->got : 0), 0);
    uint64_t time = now();
    if (got < 0 && errno == EAGAIN) return;
    put_head(expected, index, asker->number, 'A');
    if (got <= 0) {
        give_up(asker, &lost);
    } else if (!asker->waits || memcmp(buffer, expected + asker->got, (size_t)got)) {
        give_up(asker, &wrong);
    } else if ((asker->got += (size_t)got) == SIZE) {
        asker->waits = false;
        waiting--;
        requests++;
        if (time > warm && !ended) record(&latencies, time - asker->sent_at);
    }
}

/* -- the flood --------------------------------------------------------------------------------------------------- */

static void end_flood(uint64_t *reason) {
    ++*reason;
    close(flood);
    flood = -1;
}

static void pour(void) {
    ssize_t taken = send(flood, flood_message + flood_sent % PERIOD, STEP, MSG_NOSIGNAL);
    if (taken > 0) flood_sent += (uint64_t)taken;
    if (taken < 0 && errno != EAGAIN) end_flood(&lost);
}

static void draw(void) {
    static char buffer[STEP];
    ssize_t got = recv(flood, buffer, STEP, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        end_flood(&lost);
    } else if (memcmp(buffer, flood_expected + flood_got % PERIOD, (size_t)got)) {
        end_flood(&wrong);
    } else {
        flood_got += (uint64_t)got;
    }
}

static void begin_flood(int port, uint32_t index) {
    int size = FLOOD_BUFFER;
    put_alphabet(flood_message, sizeof flood_message, 'a');
    put_alphabet(flood_expected, sizeof flood_expected, 'A');
    flood = connected(port);
    never_block(flood);
    setsockopt(flood, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    watch(epoll, EPOLL_CTL_ADD, flood, EPOLLIN | EPOLLOUT, index);
}

/* -- the run ----------------------------------------------------------------------------------------------------- */

/* A timer that gives each asker its turn: epoll counts in milliseconds only, and would make them ask in bursts. */
static int turns(uint32_t count, uint32_t index) {
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec every = {.it_interval.tv_nsec = (long)(INTERVAL / count), .it_value.tv_nsec = 1};
    if (timer < 0 || timerfd_settime(timer, 0, &every, NULL)) fail("timerfd");
    watch(epoll, EPOLL_CTL_ADD, timer, EPOLLIN, index);
    return timer;
}

int main(int count, char **words) {
    if (count != 5) return fprintf(stderr, "usage: fair_load PORT ASKERS SECONDS flood|alone\n"), 2;
    int port = atoi(words[1]);
    uint32_t number = (uint32_t)atoi(words[2]), timer_index = number, flood_index = number + 1, turn = 0;
    double seconds = atof(words[3]);
    put_alphabet(message, SIZE, 'a');
    put_alphabet(expected, SIZE, 'A');
    askers = allocate(number, sizeof *askers);
    epoll = epoll_create1(0);
    for (uint32_t index = 0; index < number; index++) {
        askers[index].fd = connected(port);
        never_block(askers[index].fd);
        watch(epoll, EPOLL_CTL_ADD, askers[index].fd, EPOLLIN, index);
    }
    if (!strcmp(words[4], "flood")) begin_flood(port, flood_index);
    int timer = turns(number, timer_index);
    uint64_t started = now(), over = started + (uint64_t)(seconds * SECOND), time;
    warm = started + (uint64_t)(seconds * WARM_UP * SECOND);
    bool pouring = flood >= 0, owed = true; /* something is on its way */
    struct epoll_event events[256];
    while ((!ended || owed) && (time = now()) < over + PATIENCE) {
        ended = is_over(time, over, latencies.count + wrong + lost);
        if (pouring && ended) {
            pouring = false;
            if (flood >= 0) watch(epoll, EPOLL_CTL_MOD, flood, EPOLLIN, flood_index);
        }
        int ready = epoll_wait(epoll, events, 256, 100);
        uint32_t of_flood = 0;
        for (int place = 0; place < ready; place++) {
            uint32_t index = events[place].data.u32;
            if (index == flood_index) {
                of_flood = events[place].events; /* after everybody else */
            } else if (index == timer_index) {
                uint64_t expired = 0;
                if (read(timer, &expired, sizeof expired) < 0 && errno != EAGAIN) fail("timerfd");
                for (; expired && !ended; expired--) ask(turn++ % number);
            } else {
                take(index);
            }
        }
        if (flood >= 0 && of_flood & ~(uint32_t)EPOLLOUT) draw();
        if (flood >= 0 && of_flood & EPOLLOUT) pour();
        owed = waiting || (flood >= 0 && flood_got < flood_sent);
    }
    lost += waiting + (flood >= 0 && flood_got < flood_sent);
    report(requests, seconds, &latencies, wrong, lost, "flood_bytes", flood_got);
    return 0;
}

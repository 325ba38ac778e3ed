/* Load for a UDP echo server: so many sockets, each with WINDOW datagrams on their way at any time.
 *
 * usage: udp_load PORT SOCKETS SECONDS BYTES WINDOW
 *
 * Every datagram has a number; a reply is right if it is, in upper case, one that is on its way. When the time is over
 * nothing new is sent and what is on its way is waited for. Nothing is sent twice: where something was lost the run
 * does not count. One line of JSON at the end: wrong counts replies that were not asked for or not right, lost what was
 * not answered, reordered what came before one sent earlier.
 */
#include "common.h"

#define LARGEST 8192

struct peer {
    int fd;
    int on_their_way;
    uint64_t sent, newest; /* numbers */
    uint64_t *numbers, *times; /* of the window; the number 0 marks a free place */
};

static int window;
static size_t size;
static char message[LARGEST], expected[LARGEST];
static uint64_t wrong, lost, reordered;

static void fill(struct peer *peer, uint32_t index) {
    for (int place = 0; place < window && peer->on_their_way < window; place++) {
        if (peer->numbers[place]) continue;
        put_head(message, index, peer->sent + 1, 'a');
        uint64_t time = now();
        if (send(peer->fd, message, size, 0) != (ssize_t)size) return; /* tried again with the next reply */
        peer->numbers[place] = ++peer->sent;
        peer->times[place] = time;
        peer->on_their_way++;
    }
}

/* The place of the datagram that is answered; -1 if it is not right. */
static int place_of(struct peer *peer, uint32_t index, const char *reply, size_t length) {
    uint64_t number = 0;
    if (length != size) return -1;
    for (int letter = HEAD_CONNECTION; letter < HEAD; letter++)
        number = number << 4 | ((uint64_t)(reply[letter] - 'A') & 15);
    put_head(expected, index, number, 'A');
    if (!number || memcmp(reply, expected, size)) return -1;
    for (int place = 0; place < window; place++)
        if (peer->numbers[place] == number) return place;
    return -1;
}

int main(int count, char **words) {
    static struct latencies latencies;
    static char reply[65536];
    uint64_t requests = 0;
    if (count != 6) return fprintf(stderr, "usage: udp_load PORT SOCKETS SECONDS BYTES WINDOW\n"), 2;
    struct sockaddr_in server = loopback(atoi(words[1]));
    uint32_t sockets = (uint32_t)atoi(words[2]);
    double seconds = atof(words[3]);
    size = strtoul(words[4], NULL, 10);
    window = atoi(words[5]);
    if (size < HEAD || size > LARGEST) return fprintf(stderr, "a datagram has %d to %d bytes\n", HEAD, LARGEST), 2;
    put_alphabet(message, size, 'a');
    put_alphabet(expected, size, 'A');
    struct peer *peers = allocate(sockets, sizeof *peers);
    int epoll = epoll_create1(0);
    for (uint32_t index = 0; index < sockets; index++) {
        struct peer *peer = &peers[index];
        peer->fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        if (peer->fd < 0) fail("socket");
        if (connect(peer->fd, (struct sockaddr *)&server, sizeof server)) fail("connect");
        peer->numbers = allocate((size_t)window, sizeof *peer->numbers);
        peer->times = allocate((size_t)window, sizeof *peer->times);
        watch(epoll, EPOLL_CTL_ADD, peer->fd, EPOLLIN, index);
    }
    uint64_t started = now(), warm = started + (uint64_t)(seconds * WARM_UP * SECOND);
    uint64_t over = started + (uint64_t)(seconds * SECOND), time;
    for (uint32_t index = 0; index < sockets; index++) fill(&peers[index], index);
    struct epoll_event events[256];
    for (bool ended = false, owed = true; !(ended && !owed) && (time = now()) < over + PATIENCE;) {
        int ready = epoll_wait(epoll, events, 256, 10);
        for (int turn = 0; turn < ready; turn++) {
            uint32_t index = events[turn].data.u32;
            struct peer *peer = &peers[index];
            ssize_t got;
            while ((got = recv(peer->fd, reply, sizeof reply, 0)) >= 0) {
                int place = place_of(peer, index, reply, (size_t)got);
                if (place < 0) {
                    wrong++;
                    continue;
                }
                time = now();
                if (peer->numbers[place] < peer->newest) reordered++;
                if (peer->numbers[place] > peer->newest) peer->newest = peer->numbers[place];
                peer->numbers[place] = 0;
                peer->on_their_way--;
                requests++;
                if (time > warm && !ended) record(&latencies, time - peer->times[place]);
            }
            if (!ended) fill(peer, index);
        }
        ended = is_over(now(), over, latencies.count + wrong);
        owed = false;
        for (uint32_t index = 0; ended && index < sockets; index++) owed |= peers[index].on_their_way > 0;
    }
    for (uint32_t index = 0; index < sockets; index++) lost += (uint64_t)peers[index].on_their_way;
    report(requests, seconds, &latencies, wrong, lost, "reordered", reordered);
    return 0;
}

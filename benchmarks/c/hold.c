/* Connections that do nothing: each had one exchange, so that its handler waits for the next, and is held open.
 *
 * usage: hold PORT CONNECTIONS            until standard input ends
 *
 * Says "held" when all are there. At the end one line of JSON: how many replies were wrong, how many connections or
 * replies were lost meanwhile.
 */
#include "common.h"

#define TOGETHER 64 /* that are made and asked before the first of them is heard: it is not waited for each */

static void ask(int fd, uint32_t index) {
    char message[HEAD];
    struct timeval patience = {.tv_sec = PATIENCE / SECOND};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    put_head(message, index, 0, 'a');
    if (send(fd, message, HEAD, MSG_NOSIGNAL) != HEAD) fail("send");
}

static void hear(int fd, uint32_t index, uint64_t *wrong, uint64_t *lost) {
    char expected[HEAD], reply[HEAD];
    put_head(expected, index, 0, 'A');
    if (recv(fd, reply, HEAD, MSG_WAITALL) != HEAD) {
        ++*lost;
    } else {
        *wrong += memcmp(reply, expected, HEAD) != 0;
    }
}

int main(int count, char **words) {
    if (count != 3) return fprintf(stderr, "usage: hold PORT CONNECTIONS\n"), 2;
    int port = atoi(words[1]);
    uint32_t connections = (uint32_t)atoi(words[2]);
    int *fds = allocate(connections, sizeof *fds);
    uint64_t wrong = 0, lost = 0;
    /* Once something is lost the others are not waited for as long. */
    for (uint32_t first = 0, end; first < connections && !lost; first = end) {
        end = first + TOGETHER < connections ? first + TOGETHER : connections;
        for (uint32_t index = first; index < end; index++) {
            fds[index] = connected(port);
            ask(fds[index], index);
        }
        for (uint32_t index = first; index < end && !lost; index++) hear(fds[index], index, &wrong, &lost);
    }
    puts("held");
    fflush(stdout);
    while (getchar() != EOF) continue;
    for (uint32_t index = 0; index < connections && !lost; index++) {
        char none;
        ssize_t got = recv(fds[index], &none, 1, MSG_DONTWAIT);
        if (got > 0) wrong++; /* nothing was asked */
        if (got == 0 || (got < 0 && errno != EAGAIN)) lost++;
    }
    printf("{\"wrong\": %" PRIu64 ", \"lost\": %" PRIu64 "}\n", wrong, lost);
    return 0;
}

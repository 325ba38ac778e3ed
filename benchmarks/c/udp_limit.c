/* The limit for UDP: one datagram read, answered in upper case, the next; or, with "batch", up to 64 in one call.
 *
 * usage: udp_limit [batch]
 */
#include "common.h"

#define LARGEST 8192
#define BATCH 64

static void one_by_one(int fd) {
    static char data[LARGEST];
    for (;;) {
        struct sockaddr_in peer;
        socklen_t length = sizeof peer;
        ssize_t got = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&peer, &length);
        if (got >= 0) sendto(fd, data, strip_upper(data, (size_t)got), 0, (struct sockaddr *)&peer, length);
    }
}

static void in_batches(int fd) {
    static char data[BATCH][LARGEST];
    static struct mmsghdr messages[BATCH];
    static struct iovec parts[BATCH];
    static struct sockaddr_in peers[BATCH];
    for (;;) {
        for (int index = 0; index < BATCH; index++) {
            parts[index] = (struct iovec){data[index], LARGEST};
            messages[index].msg_hdr = (struct msghdr){
                .msg_name = &peers[index],
                .msg_namelen = sizeof peers[index],
                .msg_iov = &parts[index],
                .msg_iovlen = 1,
            };
        }
        int got = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        for (int index = 0; index < got; index++)
            parts[index].iov_len = strip_upper(data[index], messages[index].msg_len);
        for (int sent = 0; sent < got;) {
            int taken = sendmmsg(fd, messages + sent, (unsigned)(got - sent), 0);
            sent += taken > 0 ? taken : 1; /* one that cannot be sent is passed over */
        }
    }
}

int main(int count, char **words) {
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    bind_and_say(fd);
    if (count > 1 && !strcmp(words[1], "batch")) in_batches(fd);
    one_by_one(fd);
}

/* The limit for TCP: what a single-threaded epoll server costs that does the same work.
 *
 * usage: echo_limit READ upper|same       reads of READ bytes; answers in upper case, or what came
 *
 * Level-triggered, one read for each readiness, as is usual. What the peer does not take at once is kept, and nothing
 * more is read from it until it has.
 */
#include "common.h"

struct rest {
    char *data; /* NULL: nothing is kept */
    size_t size, sent;
};

static int epoll;
static struct rest *rests; /* by descriptor */
static size_t known;

static struct rest *rest_of(int fd) {
    if ((size_t)fd >= known) {
        size_t more = (size_t)fd * 2 + 64;
        rests = realloc(rests, more * sizeof *rests);
        if (!rests) fail("realloc");
        memset(rests + known, 0, (more - known) * sizeof *rests);
        known = more;
    }
    return &rests[fd];
}

static void end(int fd) {
    struct rest *rest = rest_of(fd);
    free(rest->data);
    *rest = (struct rest){0};
    close(fd);
}

static void answer(int fd, const char *data, size_t size) {
    ssize_t taken = send(fd, data, size, MSG_NOSIGNAL);
    if (taken == (ssize_t)size) return;
    if (taken < 0 && errno != EAGAIN) {
        end(fd);
        return;
    }
    struct rest *rest = rest_of(fd);
    rest->sent = 0;
    rest->size = size - (size_t)(taken < 0 ? 0 : taken);
    rest->data = allocate(rest->size, 1);
    memcpy(rest->data, data + (size - rest->size), rest->size);
    watch(epoll, EPOLL_CTL_MOD, fd, EPOLLOUT, (uint32_t)fd);
}

static void answer_rest(int fd) {
    struct rest *rest = rest_of(fd);
    ssize_t taken = send(fd, rest->data + rest->sent, rest->size - rest->sent, MSG_NOSIGNAL);
    if (taken < 0 && errno != EAGAIN) {
        end(fd);
        return;
    }
    rest->sent += (size_t)(taken < 0 ? 0 : taken);
    if (rest->sent < rest->size) return;
    free(rest->data);
    *rest = (struct rest){0};
    watch(epoll, EPOLL_CTL_MOD, fd, EPOLLIN, (uint32_t)fd);
}

static void take_in(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        no_delay(fd);
        rest_of(fd);
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, (uint32_t)fd);
    }
}

int main(int count, char **words) {
    if (count != 3) return fprintf(stderr, "usage: echo_limit READ upper|same\n"), 2;
    size_t size = strtoul(words[1], NULL, 10);
    bool upper = !strcmp(words[2], "upper");
    char *buffer = allocate(size, 1);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    epoll = epoll_create1(0);
    bind_and_say(listener);
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, (uint32_t)listener);
    struct epoll_event events[512];
    for (;;) {
        int ready = epoll_wait(epoll, events, 512, -1);
        for (int index = 0; index < ready; index++) {
            int fd = (int)events[index].data.u32;
            if (fd == listener) {
                take_in(listener);
            } else if (rest_of(fd)->data) {
                answer_rest(fd);
            } else {
                ssize_t got = recv(fd, buffer, size, 0);
                if (got < 0 && errno == EAGAIN) continue;
                size_t left = got <= 0 ? 0 : upper ? strip_upper(buffer, (size_t)got) : (size_t)got;
                if (left) {
                    answer(fd, buffer, left);
                } else {
                    end(fd);
                }
            }
        }
    }
}

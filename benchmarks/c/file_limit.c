/* The limit for files: sendfile(2) at one end, splice(2) through a pipe at the other.
 *
 * usage: file_limit receive PATH          says its port, receives one file, answers with a line
 *        file_limit send PATH PORT        sends it; seconds until the answer, as JSON
 *
 * The two speak what benchmarks/file_transfer.py speaks, whose line is how many KiB the receiver has grown by.
 */
#include "common.h"

#include <sys/sendfile.h>
#include <sys/stat.h>

#define STEP (1 << 20) /* bytes of one splice, and of the pipe: the most that a user may ask for (pipe(7)) */

static int receive(const char *path) {
    int listener = socket(AF_INET, SOCK_STREAM, 0), ends[2];
    bind_and_say(listener);
    int fd = accept(listener, NULL, NULL), file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0) fail("accept");
    if (file < 0) fail(path);
    if (pipe(ends)) fail("pipe");
    fcntl(ends[1], F_SETPIPE_SZ, STEP);
    ssize_t filled;
    while ((filled = splice(fd, NULL, ends[1], NULL, STEP, SPLICE_F_MOVE | SPLICE_F_MORE)) > 0)
        while (filled) {
            ssize_t drained = splice(ends[0], NULL, file, NULL, (size_t)filled, SPLICE_F_MOVE);
            if (drained <= 0) fail("splice into the file");
            filled -= drained;
        }
    if (filled < 0) fail("splice from the socket");
    if (send(fd, "0\n", 2, MSG_NOSIGNAL) != 2) fail("send");
    return 0;
}

static int deliver(const char *path, int port) {
    int file = open(path, O_RDONLY);
    struct stat about;
    if (file < 0 || fstat(file, &about)) fail(path);
    int fd = connected(port);
    uint64_t started = now();
    for (off_t sent = 0; sent < about.st_size;)
        if (sendfile(fd, file, &sent, (size_t)(about.st_size - sent)) <= 0) fail("sendfile");
    shutdown(fd, SHUT_WR);
    char answer[16];
    if (recv(fd, answer, sizeof answer, 0) <= 0) fail("no answer");
    printf("{\"seconds\": %.6f, \"sender_growth_kib\": 0, \"receiver_growth_kib\": 0}\n",
           (double)(now() - started) / SECOND);
    return 0;
}

int main(int count, char **words) {
    if (count == 3 && !strcmp(words[1], "receive")) return receive(words[2]);
    if (count == 4 && !strcmp(words[1], "send")) return deliver(words[2], atoi(words[3]));
    return fprintf(stderr, "usage: file_limit receive PATH | send PATH PORT\n"), 2;
}

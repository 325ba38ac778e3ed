/* The beginning and the end of an accepted socket: the object of a connection, its place among what is polled, its
 * leaving that, and its end. The twins of socket.accept in src/jackfield/socket.py and of _join_accepted, _forget and
 * _end of PatientSocket in src/jackfield/reactor/patience.py, which they call for all that is not common. */
#include "native.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

/* As in src/jackfield/reactor/poller.py: both directions, by edge. */
#define REGISTER (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET)

static PyTypeObject *accepted_type;
static PyObject *pure_accept, *pure_join, *pure_forget, *pure_end;
static PyObject *raw_init, *default_timeout, *name_forget, *no_arguments, *zero;
static Py_ssize_t io_refs, closed, user;

/* -- the object ---------------------------------------------------------------------------------------------------- */

/* What the standard library's object is in C, as far as it is the same for every socket of a family and of no timeout:
 * taken from the first one that its own __init__ has made. That asks the kernel by getsockname(2) whether the number is
 * one of a socket at all, which what accept(2) has given is. Where the object has another size than it has had from 3.11
 * on, nothing is taken, and each is made by __init__. */
enum { HEAD = sizeof(PyObject), NUMBERS = 4 * sizeof(int), MOST = 24 };
static char rest[MOST];
static Py_ssize_t rest_size;
static int rest_known;

static int make_by_init(PyObject *sock, const int *numbers) {
    PyObject *call[5] = {sock}, *result = NULL;
    const int order[4] = {1, 2, 3, 0};
    int made = 1;
    for (; made < 5 && (call[made] = PyLong_FromLong(numbers[order[made - 1]])) != NULL; made++)
        ;
    if (made == 5)
        result = PyObject_Vectorcall(raw_init, call, 5, NULL);
    while (--made > 0)
        Py_DECREF(call[made]);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Makes ``sock``, fresh from __new__, the socket of ``numbers``: descriptor, family, type and protocol. */
static int make_socket(PyObject *sock, const int *numbers, int patient) {
    char *place = (char *)sock + HEAD;
    if (rest_known && !patient) {
        if (PySys_Audit("socket.__new__", "Oiii", sock, numbers[1], numbers[2], numbers[3]) < 0)
            return -1;
        memcpy(place + NUMBERS, rest, rest_size);
        memcpy(place, numbers, NUMBERS);
        return 0;
    }
    if (make_by_init(sock, numbers) < 0)
        return -1;
    if (rest_size > 0 && !patient && memcmp(place, numbers, NUMBERS) == 0) {
        memcpy(rest, place + NUMBERS, rest_size);
        rest_known = 1;
    }
    return 0;
}

/* What every accepted socket begins with, in its __slots__: as in the one that the pure twin has begun. None of it can be
 * changed by itself, so all may share it. */
static PyObject *fresh;
static Py_ssize_t first_slot, slots_end;

static void begin(PyObject *sock, PyObject *patience) {
    for (Py_ssize_t slot = first_slot; slot < slots_end; slot += sizeof(PyObject *))
        SLOT(sock, slot) = Py_XNewRef(SLOT(fresh, slot));
    Py_SETREF(SLOT(sock, socket_patience), patience);
}

/* The socket of a descriptor that accept(2) has given, which is its own from then on, and is closed on an error. */
static PyObject *make_accepted(const int *numbers) {
    PyObject *patience = PyObject_CallNoArgs(default_timeout), *sock = NULL;
    if (patience != NULL)
        sock = accepted_type->tp_new(accepted_type, no_arguments, NULL);
    if (sock == NULL || make_socket(sock, numbers, patience != Py_None) < 0) {
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        if (sock == NULL || *(int *)((char *)sock + HEAD) != numbers[0])
            close(numbers[0]); /* or the object closes it */
        Py_XDECREF(sock);
        Py_XDECREF(patience);
        PyErr_Restore(type, error, traceback);
        return NULL;
    }
    begin(sock, patience);
    return sock;
}

/* -- accept -------------------------------------------------------------------------------------------------------- */

/* As inet_ntop(3), which formats by a printf, for IPv4; returns the length. */
static Py_ssize_t write_ipv4(const unsigned char *bytes, char *text) {
    char *at = text;
    for (int one = 0; one < 4; one++) {
        unsigned byte = bytes[one];
        if (one > 0)
            *at++ = '.';
        if (byte >= 100)
            *at++ = '0' + byte / 100;
        if (byte >= 10)
            *at++ = '0' + byte / 10 % 10;
        *at++ = '0' + byte % 10;
    }
    return at - text;
}

static PyObject *ipv4_address(const struct sockaddr_in *v4) {
    char text[INET_ADDRSTRLEN];
    PyObject *host = PyUnicode_FromStringAndSize(text, write_ipv4((const unsigned char *)&v4->sin_addr, text));
    PyObject *port = PyLong_FromLong(ntohs(v4->sin_port)), *both = NULL;
    if (host != NULL && port != NULL)
        both = PyTuple_Pack(2, host, port);
    Py_XDECREF(host);
    Py_XDECREF(port);
    return both;
}

/* As the standard library tells it: (host, port), and for IPv6 (host, port, flow, scope). */
static PyObject *address_of(const struct sockaddr_storage *storage, socklen_t size) {
    char host[INET6_ADDRSTRLEN];
    if (size == 0)
        Py_RETURN_NONE;
    if (storage->ss_family == AF_INET)
        return ipv4_address((const struct sockaddr_in *)storage);
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)storage;
    inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
    return Py_BuildValue("siII", host, ntohs(v6->sin6_port), ntohl(v6->sin6_flowinfo), v6->sin6_scope_id);
}

/* Whether the interpreter is to be let go of for an accept(2). Among other threads that costs two of their turns, where
 * the call takes a few microseconds; but it may wait, though the listener was made non-blocking: that belongs to its open
 * file, which may be another process's too (open(2)). Where there is no other thread, not even that has to be asked. */
static int lets_go(int listener) {
    if (PyThreadState_Next(PyInterpreterState_ThreadHead(PyInterpreterState_Get())) == NULL)
        return 1;
    int flags = fcntl(listener, F_GETFL);
    return flags < 0 || !(flags & O_NONBLOCK);
}

static int accept_from(int listener, struct sockaddr_storage *storage, socklen_t *size) {
    *size = sizeof *storage;
    return accept4(listener, (struct sockaddr *)storage, size, SOCK_CLOEXEC);
}

static PyObject *socket_accept(PyObject *self, PyObject *unused) {
    PyObject *patience = SLOT(self, socket_patience), *sock, *address, *both;
    const int *listener = socket_numbers(self);
    if (listener == NULL || patience == NULL || !PyFloat_CheckExact(patience) || PyFloat_AS_DOUBLE(patience) != 0.0 ||
        (listener[1] != AF_INET && listener[1] != AF_INET6))
        return PyObject_CallOneArg(pure_accept, self);
    struct sockaddr_storage storage;
    socklen_t size;
    int fd, numbers[4] = {-1, listener[1], listener[2], listener[3]}, from = listener[0];
    do {
        if (lets_go(from)) {
            Py_BEGIN_ALLOW_THREADS
            fd = accept_from(from, &storage, &size);
            Py_END_ALLOW_THREADS
        } else {
            fd = accept_from(from, &storage, &size);
        }
    } while (fd < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    if (fd < 0)
        return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
    numbers[0] = fd;
    sock = make_accepted(numbers);
    if (sock == NULL)
        return NULL;
    address = address_of(&storage, size);
    both = address == NULL ? NULL : PyTuple_Pack(2, sock, address);
    Py_XDECREF(address);
    Py_DECREF(sock);
    return both;
}

/* -- its place among what is polled ---------------------------------------------------------------------------------- */

static PyObject *socket_join_accepted(PyObject *self, PyObject *poller) {
    const int *numbers = socket_numbers(self);
    if (SLOT(self, socket_patience) != Py_None || SLOT(self, socket_short_is_empty) != Py_True)
        Py_RETURN_NONE; /* the first who waits sees to it */
    if (numbers == NULL || !PyObject_TypeCheck(poller, &Core_Type) || ((Core *)poller)->epoll < 0)
        return PyObject_CallFunctionObjArgs(pure_join, self, poller, NULL);
    struct epoll_event event = {.events = REGISTER, .data.fd = numbers[0]};
    if (epoll_ctl(((Core *)poller)->epoll, EPOLL_CTL_ADD, numbers[0], &event) < 0)
        return PyObject_CallFunctionObjArgs(pure_join, self, poller, NULL); /* that tells why, or knows what to do */
    Channel *channel = make_channel(numbers[0], poller);
    if (channel == NULL || enter_channel((Core *)poller, channel) < 0) {
        epoll_ctl(((Core *)poller)->epoll, EPOLL_CTL_DEL, numbers[0], &event);
        Py_XDECREF(channel);
        return NULL;
    }
    channel->short_is_empty = 1;
    channel->readable = 0; /* what is there already is reported as an edge */
    PyObject *old = SLOT(self, socket_registered);
    SLOT(self, socket_registered) = Py_NewRef((PyObject *)channel);
    Py_XDECREF(old);
    old = SLOT(self, socket_channel);
    SLOT(self, socket_channel) = (PyObject *)channel;
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

/* Takes the channel out of its poller, whose descriptor is about to be closed. */
static int forget_channel(Channel *channel) {
    PyObject *poller = channel->poller;
    if (!is_somebody(poller))
        return 0;
    if (!PyObject_TypeCheck(poller, &Core_Type) || ((Core *)poller)->epoll < 0 || is_somebody(channel->reader) ||
        is_somebody(channel->writer)) {
        PyObject *result = PyObject_CallMethodOneArg(poller, name_forget, (PyObject *)channel);
        Py_XDECREF(result);
        return result == NULL ? -1 : 0;
    }
    struct epoll_event unused = {0};
    if (leave_channel((Core *)poller, channel))
        epoll_ctl(((Core *)poller)->epoll, EPOLL_CTL_DEL, channel->fd, &unused); /* closed already, it left by itself */
    channel->readable = channel->writable = 1;
    Py_CLEAR(channel->poller);
    return 0;
}

static PyObject *socket_forget(PyObject *self, PyObject *unused) {
    PyObject *registered = SLOT(self, socket_registered);
    if (registered == Py_None && SLOT(self, socket_channel) == Py_None)
        Py_RETURN_NONE; /* a plain thread's, which never had one */
    if (registered == NULL || !Py_IS_TYPE(registered, &Channel_Type))
        return PyObject_CallOneArg(pure_forget, self);
    if (settle_counts(self) < 0)
        return NULL;
    const Py_ssize_t gone[] = {socket_registered, socket_channel, user};
    Py_INCREF(registered);
    for (size_t one = 0; one < sizeof gone / sizeof *gone; one++) {
        PyObject *old = SLOT(self, gone[one]);
        SLOT(self, gone[one]) = Py_NewRef(Py_None);
        Py_XDECREF(old);
    }
    int failed = forget_channel((Channel *)registered);
    Py_DECREF(registered);
    if (failed < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Whether close(2) may wait for what was sent to be taken (socket(7), SO_LINGER). */
static int lingers(int fd) {
    struct linger linger;
    socklen_t size = sizeof linger;
    return getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &size) < 0 || linger.l_onoff;
}

/* The peer may have been faster with its end. */
static int shut_down_and_close(int fd) {
    shutdown(fd, SHUT_WR);
    return close(fd);
}

/* The end of a connection. */
static PyObject *socket_end(PyObject *self, PyObject *unused) {
    int *numbers = (int *)socket_numbers(self), fd, failed;
    PyObject *old = SLOT(self, closed);
    if (numbers == NULL || numbers[0] < 0 || !Py_IS_TYPE(self, accepted_type) || old != Py_False ||
        SLOT(self, io_refs) != zero) /* a file of it is still open, or it is closed: then there is less to do */
        return PyObject_CallOneArg(pure_end, self);
    int is_plain = SLOT(self, socket_registered) == Py_None;
    PyObject *forgotten = socket_forget(self, NULL);
    if (forgotten == NULL)
        return NULL;
    Py_DECREF(forgotten);
    SLOT(self, closed) = Py_NewRef(Py_True);
    Py_DECREF(old);
    fd = numbers[0];
    numbers[0] = -1;
    /* Each time that the interpreter is let go of, other threads are in between: where there are some, once at most. */
    if (is_plain && !lingers(fd)) {
        failed = shut_down_and_close(fd);
    } else {
        Py_BEGIN_ALLOW_THREADS
        failed = shut_down_and_close(fd);
        Py_END_ALLOW_THREADS
    }
    if (failed < 0 && errno != ECONNRESET)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef accept_method = {"accept", socket_accept, METH_NOARGS,
                                    "accept($self, /)\n--\n\n"
                                    "As socket.accept. The new socket is blocking, or has the default timeout."};
static PyMethodDef join_method = {"_join_accepted", socket_join_accepted, METH_O, NULL};
static PyMethodDef forget_method = {"_forget", socket_forget, METH_NOARGS, NULL};
static PyMethodDef end_method = {"_end", socket_end, METH_NOARGS, NULL};

/* install_accepting(the class of accepted sockets, the standard library's in C, getdefaulttimeout, a socket of that class
 * as it is when it was accepted, but for its descriptor) */
PyObject *install_accepting(PyObject *module, PyObject *args) {
    PyObject *type, *raw, *timeout, *begun;
    if (!PyArg_ParseTuple(args, "O!O!OO", &PyType_Type, &type, &PyType_Type, &raw, &timeout, &begun))
        return NULL;
    if (find_slot(type, "_io_refs", &io_refs) < 0 || find_slot(type, "_closed", &closed) < 0 ||
        find_slot(type, "_user", &user) < 0)
        return NULL;
    accepted_type = (PyTypeObject *)Py_NewRef(type);
    if (!Py_IS_TYPE(begun, accepted_type) || accepted_type->tp_dictoffset != 0) {
        PyErr_Format(PyExc_TypeError, "all that a %R has is to be in its __slots__", type);
        return NULL;
    }
    fresh = Py_NewRef(begun);
    first_slot = ((PyTypeObject *)raw)->tp_basicsize;
    slots_end = accepted_type->tp_basicsize;
#ifndef Py_GIL_DISABLED
    Py_ssize_t left = first_slot - HEAD - NUMBERS;
    if (left == 16 || left == 24)
        rest_size = left;
#endif
    default_timeout = Py_NewRef(timeout);
    raw_init = PyObject_GetAttrString(raw, "__init__");
    name_forget = PyUnicode_InternFromString("forget");
    no_arguments = PyTuple_New(0);
    zero = PyLong_FromLong(0);
    if (raw_init == NULL || name_forget == NULL || no_arguments == NULL || zero == NULL ||
        replace_method(type, &accept_method, &pure_accept) < 0 ||
        replace_method(type, &join_method, &pure_join) < 0 || replace_method(type, &forget_method, &pure_forget) < 0 ||
        replace_method(type, &end_method, &pure_end) < 0)
        return NULL;
    Py_RETURN_NONE;
}

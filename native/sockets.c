/* recv and sendall, of a green thread and of a plain one. The twins of the methods of the
 * same name in src/jackfield/reactor/cooperative.py, which they call for all that is not common. */
#include "native.h"

#include <errno.h>
#include <sys/socket.h>

PyTypeObject *green_type;
Py_ssize_t green_hub, green_poller;
Py_ssize_t socket_channel, socket_patience, socket_switched, socket_received, socket_sent;
static Py_ssize_t socket_waits;
Py_ssize_t socket_registered, socket_short_is_empty, socket_at_end;

static PyObject *pure_recv, *pure_sendall; /* methods of the class that are replaced, as functions */
static PyObject *recv_otherwise, *sendall_otherwise, *send_rest; /* and those that are called in their place */
static PyObject *closed_error;                              /* ClosedSocketError */
static PyObject *name_bytes_sent, *zero;

/* A read that returns little is copied out of here, which costs less than to allocate for the most and to shrink. */
static char scratch[65536];
enum { LARGE = 8192 };

/* Counting costs an addition, in the channel; who reads a count of the socket's, or sets it, has it brought up to date. */
static PyObject *count_get(PyObject *self, void *which) {
    Py_ssize_t offset = which ? socket_sent : socket_received;
    PyObject *registered = SLOT(self, socket_registered), *old = SLOT(self, offset), *sum;
    if (old == NULL) {
        PyErr_SetString(PyExc_AttributeError, which ? "sent" : "received");
        return NULL;
    }
    if (registered == NULL || !Py_IS_TYPE(registered, &Channel_Type))
        return Py_NewRef(old);
    long long *count = which ? &((Channel *)registered)->sent : &((Channel *)registered)->received;
    if (*count == 0)
        return Py_NewRef(old);
    sum = PyLong_FromLongLong(PyLong_AsLongLong(old) + *count);
    if (sum == NULL)
        return NULL;
    *count = 0;
    SLOT(self, offset) = Py_NewRef(sum);
    Py_DECREF(old);
    return sum;
}

/* Brings both up to date, before the channel goes. */
int settle_counts(PyObject *self) {
    for (int which = 0; which < 2; which++) {
        PyObject *count = count_get(self, which ? self : NULL);
        if (count == NULL)
            return -1;
        Py_DECREF(count);
    }
    return 0;
}

static int count_set(PyObject *self, PyObject *value, void *which) {
    Py_ssize_t offset = which ? socket_sent : socket_received;
    PyObject *registered = SLOT(self, socket_registered), *old = SLOT(self, offset);
    if (value == NULL || !PyLong_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "a count of bytes is a whole number");
        return -1;
    }
    if (PyLong_AsLongLong(value) == -1 && PyErr_Occurred())
        return -1; /* it is added to as a number of C */
    if (registered != NULL && Py_IS_TYPE(registered, &Channel_Type))
        *(which ? &((Channel *)registered)->sent : &((Channel *)registered)->received) = 0;
    SLOT(self, offset) = Py_NewRef(value);
    Py_XDECREF(old);
    return 0;
}

static PyGetSetDef received_count = {"received", count_get, count_set, "Bytes taken from the kernel so far.", NULL};
static PyGetSetDef sent_count = {"sent", count_get, count_set, "Bytes given to the kernel so far.", &sent_count};

static int replace_attribute(PyObject *type, PyGetSetDef *definition) {
    PyObject *descriptor = PyDescr_NewGetSet((PyTypeObject *)type, definition);
    if (descriptor == NULL)
        return -1;
    int failed = PyObject_SetAttrString(type, definition->name, descriptor);
    Py_DECREF(descriptor);
    return failed;
}

/* Raises the error that two waiters for one direction get. */
int raise_conflict(Channel *channel, PyObject *waiter) {
    PyObject *result = PyObject_CallMethod((PyObject *)channel, "claim_reader", "O", waiter);
    Py_XDECREF(result);
    return -1;
}

/* The channel by which this socket waits in this poller, if nothing has to be thought about first; borrowed. */
Channel *usable_channel(PyObject *socket, PyObject *poller) {
    PyObject *channel = SLOT(socket, socket_channel);
    if (channel == NULL || !Py_IS_TYPE(channel, &Channel_Type) || ((Channel *)channel)->poller != poller)
        return NULL;
    return (Channel *)channel;
}

/* The error of a call of the kernel's, or the one that tells that the socket was closed while someone waited on it. */
void raise_errno(Channel *channel) {
    if (errno == EBADF && slot_of((PyObject *)channel, offsetof(Channel, poller)) == NULL)
        PyErr_SetNone(closed_error);
    else
        PyErr_SetFromErrno(PyExc_OSError);
}

/* One more operation that did not wait: after too many the next call gives the others a turn, by way of the pure twin. */
static void lengthen_streak(PyObject *socket, Channel *channel) {
    if (++channel->streak >= STREAK) {
        PyObject *old = SLOT(socket, socket_channel);
        SLOT(socket, socket_channel) = Py_NewRef(Py_None);
        Py_XDECREF(old);
    }
}

/* A stream that has ended once has nothing more to give; a record of no bytes, of another kind of socket, is no end. */
static void note_end(PyObject *self) {
    if (SLOT(self, socket_short_is_empty) == Py_True && SLOT(self, socket_at_end) == Py_False) {
        SLOT(self, socket_at_end) = Py_NewRef(Py_True);
        Py_DECREF(Py_False);
    }
}

enum outcome receive_now(PyObject *socket, Channel *channel, Py_ssize_t size, PyObject **data) {
    PyObject *bytes = NULL;
    char *buffer = scratch;
    ssize_t taken;
    if (slot_of((PyObject *)channel, offsetof(Channel, poller)) == NULL) {
        errno = EBADF; /* closed: the number may be another's by now */
        raise_errno(channel);
        return FAILED;
    }
    if (channel->large || size > (Py_ssize_t)sizeof scratch) {
        bytes = PyBytes_FromStringAndSize(NULL, size);
        if (bytes == NULL)
            return FAILED;
        buffer = PyBytes_AS_STRING(bytes);
    }
    do
        taken = recv(channel->fd, buffer, size, MSG_DONTWAIT);
    while (taken < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    if (taken < 0) {
        Py_XDECREF(bytes);
        if (PyErr_Occurred())
            return FAILED; /* a signal handler raised, and errno is its own */
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            channel->readable = 0;
            return WAIT;
        }
        raise_errno(channel);
        return FAILED;
    }
    if (bytes == NULL)
        bytes = PyBytes_FromStringAndSize(buffer, taken);
    else if (taken != size)
        _PyBytes_Resize(&bytes, taken);
    if (bytes == NULL)
        return FAILED;
    if (taken == 0)
        note_end(socket);
    channel->received += taken;
    channel->large = taken >= LARGE;
    /* A short read has emptied the buffer of a stream; after a hang-up, which is told once, one must go on trying. */
    if (taken < size && channel->short_is_empty)
        channel->readable = 0;
    else
        lengthen_streak(socket, channel);
    *data = bytes;
    return DONE;
}

/* Puts on the exception that is set that nothing was taken. */
static void set_bytes_sent(void) {
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (PyObject_SetAttr(error, name_bytes_sent, zero) < 0)
        PyErr_Clear(); /* one of a signal handler's, which takes no attributes */
    PyErr_Restore(type, error, traceback);
}

/* Sends bytes, once. WAIT where the kernel took less than all; taken tells how much. */
enum outcome send_now(PyObject *socket, Channel *channel, PyObject *data, Py_ssize_t *taken) {
    ssize_t size = PyBytes_GET_SIZE(data), sent;
    *taken = 0;
    do
        sent = send(channel->fd, PyBytes_AS_STRING(data), size, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    if (sent < 0) {
        if (!PyErr_Occurred() && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            channel->writable = 0;
            return WAIT;
        }
        if (!PyErr_Occurred())
            raise_errno(channel);
        set_bytes_sent();
        return FAILED;
    }
    channel->sent += sent;
    *taken = sent;
    if (sent < size) {
        channel->writable = 0;
        return WAIT;
    }
    lengthen_streak(socket, channel);
    return DONE;
}

/* Parks the green thread until the channel may be read. */
static int park_reader(Channel *channel, PyObject *green) {
    if (is_somebody(channel->reader) && channel->reader != green)
        return raise_conflict(channel, green);
    channel->streak = 0;
    Py_XSETREF(channel->reader, Py_NewRef(green));
    PyObject *result = GREENLET_SWITCH(SLOT(green, green_hub));
    if (result == NULL) {
        if (channel->reader == green)
            Py_CLEAR(channel->reader);
        return -1;
    }
    Py_DECREF(result);
    return 0;
}

static PyObject *recv_green(PyObject *self, Channel *channel, PyObject *green, Py_ssize_t size) {
    PyObject *data = NULL;
    enum outcome outcome = WAIT;
    Py_INCREF(channel);
    for (;;) {
        if (channel->readable) {
            outcome = receive_now(self, channel, size, &data);
            if (outcome != WAIT)
                break;
        }
        if (park_reader(channel, green) < 0)
            break;
    }
    Py_DECREF(channel);
    return outcome == DONE ? data : NULL;
}

/* -- plain threads -------------------------------------------------------------------------------------------------- */

/* Where the standard library's object keeps its descriptor: the first thing in it, as install_socket() has seen; 0 where
 * it was not so. */
static Py_ssize_t socket_fd;

/* Its descriptor, family, type and protocol, as they are in the standard library's object; NULL where that is another. */
const int *socket_numbers(PyObject *self) {
    return socket_fd ? (const int *)((char *)self + socket_fd) : NULL;
}

/* The descriptor of a socket on which a plain thread may simply block; -1 where there is more to think about. */
static int blocking_fd(PyObject *self) {
    if (socket_fd == 0 || SLOT(self, socket_switched) != Py_False || SLOT(self, socket_patience) != Py_None)
        return -1;
    return *(int *)((char *)self + socket_fd);
}

/* The channel's counts are for those who hold the reactor's thread. */
static int count_plain(PyObject *self, Py_ssize_t offset, Py_ssize_t taken) {
    PyObject *old = SLOT(self, offset), *sum;
    sum = old ? PyLong_FromLongLong(PyLong_AsLongLong(old) + taken) : NULL;
    if (sum == NULL)
        return -1;
    SLOT(self, offset) = sum;
    Py_DECREF(old);
    return 0;
}

/* 0, or -1 with an exception: nothing else is to be done about an interrupted call but to repeat it (PEP 475). */
static int failed_for_good(ssize_t result) {
    if (result >= 0)
        return 0;
    if (errno != EINTR)
        PyErr_SetFromErrno(PyExc_OSError);
    else if (PyErr_CheckSignals() == 0)
        return 0;
    return -1;
}

/* Tells whoever looks at the connection from another thread that this one waits, and for what. */
static void tell_waits(PyObject *self, PyObject *what) {
    PyObject *old = SLOT(self, socket_waits);
    SLOT(self, socket_waits) = Py_NewRef(what);
    Py_XDECREF(old);
}

static int would_wait(void) { return errno == EAGAIN || errno == EWOULDBLOCK; }

static PyObject *recv_plain(PyObject *self, int fd, Py_ssize_t size) {
    char small[LARGE], *buffer = small;
    PyObject *bytes = NULL;
    ssize_t taken;
    if (size > LARGE) {
        bytes = PyBytes_FromStringAndSize(NULL, size);
        if (bytes == NULL)
            return NULL;
        buffer = PyBytes_AS_STRING(bytes);
    }
    /* What a client says first has often come by the time that it is read: then there is nothing to wait for. An error is
     * told once: the next call would find an end in its place. */
    for (int at_once = SLOT(self, socket_received) == zero;; at_once = 0) {
        if (at_once) {
            taken = recv(fd, buffer, size, MSG_DONTWAIT);
        } else {
            tell_waits(self, Py_True);
            Py_BEGIN_ALLOW_THREADS
            taken = recv(fd, buffer, size, 0);
            Py_END_ALLOW_THREADS
            tell_waits(self, Py_None);
        }
        if (taken >= 0)
            break;
        if (!(at_once && would_wait()) && failed_for_good(taken) < 0) {
            Py_XDECREF(bytes);
            return NULL;
        }
    }
    if (taken == 0)
        note_end(self);
    if (bytes == NULL)
        bytes = PyBytes_FromStringAndSize(buffer, taken);
    else if (taken != size)
        _PyBytes_Resize(&bytes, taken);
    if (bytes == NULL || count_plain(self, socket_received, taken) < 0)
        Py_CLEAR(bytes);
    return bytes;
}

/* send(2) of a blocking socket takes all of it nearly always; after a signal perhaps not. A little fits into the kernel's
 * buffer as a rule, and goes without waiting: to let go of the interpreter for that makes another thread run, and this
 * one wait for it, which is twice as much work as to send. */
static PyObject *sendall_plain(PyObject *self, int fd, PyObject *data) {
    ssize_t taken;
    for (int at_once = PyBytes_GET_SIZE(data) <= LARGE;; at_once = 0) {
        if (at_once) {
            taken = send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL | MSG_DONTWAIT);
        } else {
            tell_waits(self, Py_False);
            Py_BEGIN_ALLOW_THREADS
            taken = send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL);
            Py_END_ALLOW_THREADS
            tell_waits(self, Py_None);
        }
        if (taken >= 0)
            break;
        if (!(at_once && would_wait()) && failed_for_good(taken) < 0) {
            set_bytes_sent();
            return NULL;
        }
    }
    if (count_plain(self, socket_sent, taken) < 0)
        return NULL;
    if (taken == PyBytes_GET_SIZE(data))
        Py_RETURN_NONE;
    return PyObject_CallFunction(send_rest, "OOni", self, data, (Py_ssize_t)taken, 0);
}

/* Looks whether the descriptor of a socket is where it has been since there are socket objects. In one that was never
 * opened it is -1, and family, type and protocol behind it are zero. */
static void find_descriptor(PyObject *unopened) {
    const int expected[4] = {-1, 0, 0, 0};
    if (Py_TYPE(unopened)->tp_basicsize > (Py_ssize_t)(sizeof(PyObject) + sizeof expected) &&
        memcmp((char *)unopened + sizeof(PyObject), expected, sizeof expected) == 0)
        socket_fd = sizeof(PyObject);
}

/* -- the methods ---------------------------------------------------------------------------------------------------- */

static PyObject *socket_recv(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    PyObject *green = GREENLET_CURRENT(), *result;
    if (green == NULL)
        return NULL;
    if (!Py_IS_TYPE(green, green_type)) {
        Py_DECREF(green);
        int fd = count == 1 && PyLong_CheckExact(args[0]) ? blocking_fd(self) : -1;
        Py_ssize_t asked = fd >= 0 ? PyLong_AsSsize_t(args[0]) : 0;
        if (asked > 0 && asked < ABSURD)
            return recv_plain(self, fd, asked);
        PyErr_Clear(); /* more than fits: told as the standard library tells it */
        return call_pure(recv_otherwise, self, args, count, NULL);
    }
    Channel *channel = usable_channel(self, SLOT(green, green_poller));
    Py_ssize_t size = count == 1 && channel != NULL && SLOT(self, socket_patience) == Py_None && PyLong_CheckExact(args[0])
                          ? PyLong_AsSsize_t(args[0])
                          : 0;
    if (size == -1 && PyErr_Occurred())
        PyErr_Clear();
    if (size > 0 && size < ABSURD)
        result = recv_green(self, channel, green, size);
    else
        result = call_pure(recv_otherwise, self, args, count, NULL);
    Py_DECREF(green);
    return result;
}

static PyObject *socket_sendall(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    PyObject *green = GREENLET_CURRENT();
    if (green == NULL)
        return NULL;
    int is_green = Py_IS_TYPE(green, green_type);
    Channel *channel = is_green ? usable_channel(self, SLOT(green, green_poller)) : NULL;
    Py_DECREF(green);
    int fd = !is_green && count == 1 && PyBytes_CheckExact(args[0]) ? blocking_fd(self) : -1;
    if (fd >= 0)
        return sendall_plain(self, fd, args[0]);
    if (channel == NULL || !channel->writable || count != 1 || !PyBytes_CheckExact(args[0]))
        return call_pure(sendall_otherwise, self, args, count, NULL);
    Py_ssize_t taken;
    switch (send_now(self, channel, args[0], &taken)) {
    case DONE:
        Py_RETURN_NONE;
    case FAILED:
        return NULL;
    case WAIT:
        break;
    }
    return PyObject_CallFunction(send_rest, "OOni", self, args[0], taken, 0);
}

static PyMethodDef recv_method = {"recv", (PyCFunction)(void (*)(void))socket_recv, METH_FASTCALL,
                                  "recv(bufsize[, flags]) -> bytes"};
static PyMethodDef sendall_method = {"sendall", (PyCFunction)(void (*)(void))socket_sendall, METH_FASTCALL,
                                     "sendall(data[, flags])"};

static int add_method(PyObject *type, PyMethodDef *method) {
    PyObject *ignored = NULL;
    int failed = replace_method(type, method, &ignored);
    Py_XDECREF(ignored);
    return failed;
}

/* install_own_calls(socket class): once more, in a class made of the one that install_socket() was given.
 *
 * The interpreter calls a method in C straight only on objects of the very class that it was defined for (its
 * CALL_METHOD_DESCRIPTOR_FAST). On those of a class below it goes by two more functions, whose frames a green thread
 * would hold, and have copied, for as long as it waits. */
PyObject *install_own_calls(PyObject *module, PyObject *type) {
    if (!PyType_Check(type)) {
        PyErr_SetString(PyExc_TypeError, "install_own_calls() takes a class");
        return NULL;
    }
    if (add_method(type, &recv_method) < 0 || add_method(type, &sendall_method) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* install_socket(socket class, green thread class, ClosedSocketError, an unopened socket) */
PyObject *install_socket(PyObject *module, PyObject *args) {
    PyObject *type, *green, *closed, *unopened;
    if (!PyArg_ParseTuple(args, "O!O!OO", &PyType_Type, &type, &PyType_Type, &green, &closed, &unopened))
        return NULL;
    if (find_slot(type, "_channel", &socket_channel) < 0 || find_slot(type, "_patience", &socket_patience) < 0 ||
        find_slot(type, "_switched", &socket_switched) < 0 ||
        find_slot(type, "_registered", &socket_registered) < 0 || find_slot(type, "received", &socket_received) < 0 ||
        find_slot(type, "sent", &socket_sent) < 0 || find_slot(type, "waits", &socket_waits) < 0 ||
        find_slot(type, "_short_is_empty", &socket_short_is_empty) < 0 ||
        find_slot(type, "_at_end", &socket_at_end) < 0 ||
        find_slot(green, "hub", &green_hub) < 0 || find_slot(green, "poller", &green_poller) < 0)
        return NULL;
    green_type = (PyTypeObject *)Py_NewRef(green);
    closed_error = Py_NewRef(closed);
    find_descriptor(unopened);
    name_bytes_sent = PyUnicode_InternFromString("bytes_sent");
    zero = PyLong_FromLong(0);
    recv_otherwise = PyObject_GetAttrString(type, "_recv_otherwise");
    sendall_otherwise = PyObject_GetAttrString(type, "_sendall_otherwise");
    send_rest = PyObject_GetAttrString(type, "_send_from");
    if (replace_attribute(type, &received_count) < 0 || replace_attribute(type, &sent_count) < 0)
        return NULL;
    if (name_bytes_sent == NULL || zero == NULL || recv_otherwise == NULL || sendall_otherwise == NULL ||
        send_rest == NULL ||
        replace_method(type, &recv_method, &pure_recv) < 0 || replace_method(type, &sendall_method, &pure_sendall) < 0)
        return NULL;
    Py_RETURN_NONE;
}

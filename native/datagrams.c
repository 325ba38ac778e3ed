/* A batch of datagrams by one call, and answers sent without waiting. The twins of receive_batch in
 * src/jackfield/door/datagrams.py and of the sendto methods in src/jackfield/reactor/cooperative.py and
 * src/jackfield/streams.py, which do all that is not common. */
#define _GNU_SOURCE
#include "native.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { MOST = 64, LARGEST = 65536, CONTROL = 128, PEERS = 256, LOCALS = 16, APART = 192 };

PyObject *name_fileno;

/* -- a batch ------------------------------------------------------------------------------------------------------- */

/* Touched, and so in memory, only as far as datagrams reach. A little more than 64 KiB apart, so that the beginnings of
 * short ones do not all want the same few lines of the processor's cache. */
static char payloads[MOST][LARGEST + APART];
static char controls[MOST][CONTROL];
static struct sockaddr_storage senders[MOST];
static struct iovec pieces[MOST];
static struct mmsghdr headers[MOST];

/* What the same peer is told as every time, and the same ancillary data. */
static struct {
    struct sockaddr_storage raw;
    socklen_t size;
    PyObject *address;
} peers[PEERS];
static struct {
    char raw[CONTROL];
    size_t size;
    PyObject *info;
} locals[LOCALS];

static PyTypeObject *datagram_type;
static PyObject *parse_local; /* packet_info: a list of ancillary data -> PacketInfo or None */

static unsigned hash_bytes(const void *data, size_t size) {
    const unsigned char *byte = data;
    unsigned hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ byte[i]) * 16777619u;
    return hash ^ (hash >> 15);
}

static PyObject *make_address(const struct sockaddr_storage *raw) {
    char text[INET6_ADDRSTRLEN];
    if (raw->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)raw;
        if (inet_ntop(AF_INET, &in->sin_addr, text, sizeof text) == NULL)
            return PyErr_SetFromErrno(PyExc_OSError);
        return Py_BuildValue("si", text, ntohs(in->sin_port));
    }
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)raw;
    if (inet_ntop(AF_INET6, &in6->sin6_addr, text, sizeof text) == NULL)
        return PyErr_SetFromErrno(PyExc_OSError);
    return Py_BuildValue("siII", text, ntohs(in6->sin6_port), ntohl(in6->sin6_flowinfo), in6->sin6_scope_id);
}

static PyObject *address_of(const struct msghdr *header) {
    const struct sockaddr_storage *raw = header->msg_name;
    socklen_t size = header->msg_namelen;
    if (raw->ss_family == AF_INET)
        size = offsetof(struct sockaddr_in, sin_zero); /* what is behind it says nothing */
    unsigned slot = hash_bytes(raw, size) % PEERS;
    if (peers[slot].size == size && memcmp(&peers[slot].raw, raw, size) == 0)
        return Py_NewRef(peers[slot].address);
    PyObject *address = make_address(raw);
    if (address != NULL) {
        memcpy(&peers[slot].raw, raw, size);
        peers[slot].size = size;
        Py_XSETREF(peers[slot].address, Py_NewRef(address));
    }
    return address;
}

static PyObject *make_local(struct msghdr *header) {
    PyObject *ancillary = PyList_New(0), *info = NULL;
    if (ancillary == NULL)
        return NULL;
    for (struct cmsghdr *message = CMSG_FIRSTHDR(header); message != NULL; message = CMSG_NXTHDR(header, message)) {
        Py_ssize_t size = message->cmsg_len - CMSG_LEN(0);
        PyObject *item = Py_BuildValue("iiy#", message->cmsg_level, message->cmsg_type, CMSG_DATA(message), size);
        if (item == NULL || PyList_Append(ancillary, item) < 0) {
            Py_XDECREF(item);
            goto done;
        }
        Py_DECREF(item);
    }
    info = PyObject_CallOneArg(parse_local, ancillary);
done:
    Py_DECREF(ancillary);
    return info;
}

static PyObject *local_of(struct msghdr *header) {
    size_t size = header->msg_controllen;
    if (size == 0)
        return Py_NewRef(Py_None);
    unsigned slot = hash_bytes(header->msg_control, size) % LOCALS;
    if (locals[slot].size == size && memcmp(locals[slot].raw, header->msg_control, size) == 0)
        return Py_NewRef(locals[slot].info);
    PyObject *info = make_local(header);
    if (info != NULL) {
        memcpy(locals[slot].raw, header->msg_control, size);
        locals[slot].size = size;
        Py_XSETREF(locals[slot].info, Py_NewRef(info));
    }
    return info;
}

static PyObject *make_datagram(struct mmsghdr *received) {
    struct msghdr *header = &received->msg_hdr;
    PyObject *datagram = datagram_type->tp_alloc(datagram_type, 4);
    if (datagram == NULL)
        return NULL;
    PyObject *data = PyBytes_FromStringAndSize(header->msg_iov->iov_base, received->msg_len);
    PyObject *address = data ? address_of(header) : NULL;
    PyObject *local = address ? local_of(header) : NULL;
    PyTuple_SET_ITEM(datagram, 0, data);
    PyTuple_SET_ITEM(datagram, 1, address);
    PyTuple_SET_ITEM(datagram, 2, PyBool_FromLong(header->msg_flags & MSG_TRUNC));
    PyTuple_SET_ITEM(datagram, 3, local);
    if (local == NULL)
        Py_CLEAR(datagram);
    return datagram;
}

static void prepare_headers(int most, size_t size) {
    for (int i = 0; i < most; i++) {
        pieces[i].iov_base = payloads[i];
        pieces[i].iov_len = size;
        headers[i].msg_hdr = (struct msghdr){
            .msg_name = &senders[i],
            .msg_namelen = sizeof senders[i],
            .msg_iov = &pieces[i],
            .msg_iovlen = 1,
            .msg_control = controls[i],
            .msg_controllen = CONTROL,
        };
    }
}

static PyObject *receive_batch(int fd, Py_ssize_t size, int most) {
    prepare_headers(most, size);
    int taken;
    do
        taken = recvmmsg(fd, headers, most, MSG_DONTWAIT, NULL);
    while (taken < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    if (taken < 0) {
        if (PyErr_Occurred())
            return NULL;
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            return PyLong_FromLong(errno);
        taken = 0;
    }
    PyObject *batch = PyList_New(taken);
    for (int i = 0; i < taken && batch != NULL; i++) {
        PyObject *datagram = make_datagram(&headers[i]);
        if (datagram == NULL)
            Py_CLEAR(batch);
        else
            PyList_SET_ITEM(batch, i, datagram);
    }
    return batch;
}

/* receive_datagrams(socket of the internet, size, budget) -> list of Datagram, at most MOST; None where that is for the
 * pure twin; the number of an error that the kernel told before any datagram (one after some it tells at the next call:
 * recvmmsg(2)). */
PyObject *receive_datagrams(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (count != 3 || datagram_type == NULL) {
        PyErr_SetString(PyExc_TypeError, "receive_datagrams(socket, size, budget)");
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(args[0]);
    Py_ssize_t size = fd < 0 ? -1 : PyLong_AsSsize_t(args[1]);
    long budget = size < 0 ? -1 : PyLong_AsLong(args[2]);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError))
            return NULL;
        PyErr_Clear(); /* closed: the pure twin says that as the standard library does */
        Py_RETURN_NONE;
    }
    if (size < 0 || size > LARGEST || budget < 0)
        Py_RETURN_NONE;
    /* Making a batch runs code in Python, in which another thread may have its turn and come here too. */
    static char busy;
    if (busy)
        Py_RETURN_NONE;
    busy = 1;
    PyObject *batch = receive_batch(fd, size, budget < MOST ? (int)budget : MOST);
    busy = 0;
    return batch;
}

/* install_datagrams(Datagram, packet_info) */
PyObject *install_datagrams(PyObject *module, PyObject *args) {
    PyObject *type, *function;
    if (!PyArg_ParseTuple(args, "O!O", &PyType_Type, &type, &function))
        return NULL;
    if (!PyType_IsSubtype((PyTypeObject *)type, &PyTuple_Type) ||
        ((PyTypeObject *)type)->tp_basicsize != PyTuple_Type.tp_basicsize) {
        PyErr_SetString(PyExc_TypeError, "Datagram is to be a tuple and nothing more");
        return NULL;
    }
    datagram_type = (PyTypeObject *)Py_NewRef(type);
    parse_local = Py_NewRef(function);
    Py_RETURN_NONE;
}

/* -- an answer ----------------------------------------------------------------------------------------------------- */

static PyObject *pure_sendto, *pure_stream_sendto;
PyTypeObject *plain_socket_type;
Py_ssize_t socket_family;
static Py_ssize_t stream_socket;

/* The address that the kernel takes, of one given in numbers: 0 where it is not. */
socklen_t raw_address(int family, PyObject *address, struct sockaddr_storage *raw) {
    if (!PyTuple_CheckExact(address) || PyTuple_GET_SIZE(address) < 2)
        return 0;
    Py_ssize_t items = PyTuple_GET_SIZE(address);
    PyObject *host = PyTuple_GET_ITEM(address, 0), *port = PyTuple_GET_ITEM(address, 1);
    if (!PyUnicode_CheckExact(host) || !PyUnicode_IS_ASCII(host) || !PyLong_CheckExact(port))
        return 0;
    const char *text = (const char *)PyUnicode_DATA(host);
    if (strlen(text) != (size_t)PyUnicode_GET_LENGTH(host))
        return 0;
    int overflow;
    long number = PyLong_AsLongAndOverflow(port, &overflow), scope = 0;
    if (overflow || number < 0 || number > 65535)
        return 0;
    if (family == AF_INET && items == 2) {
        struct sockaddr_in *in = (struct sockaddr_in *)raw;
        *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(number)};
        return inet_pton(AF_INET, text, &in->sin_addr) == 1 ? sizeof *in : 0;
    }
    if (family != AF_INET6 || (items != 2 && items != 4))
        return 0;
    if (items == 4) {
        PyObject *flow = PyTuple_GET_ITEM(address, 2), *zone = PyTuple_GET_ITEM(address, 3);
        if (!PyLong_CheckExact(flow) || !PyLong_CheckExact(zone) || PyLong_AsLongAndOverflow(flow, &overflow) != 0)
            return 0;
        scope = PyLong_AsLongAndOverflow(zone, &overflow);
        if (overflow || scope < 0 || scope > 0xffffffffL)
            return 0;
    }
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)raw;
    *in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(number), .sin6_scope_id = scope};
    return inet_pton(AF_INET6, text, &in6->sin6_addr) == 1 ? sizeof *in6 : 0;
}

int add_sent(PyObject *socket, Channel *channel, Py_ssize_t taken) {
    if (channel != NULL) {
        channel->sent += taken;
        return 0;
    }
    PyObject *old = SLOT(socket, socket_sent);
    PyObject *sum = old ? PyLong_FromLongLong(PyLong_AsLongLong(old) + taken) : NULL;
    if (sum == NULL)
        return -1;
    SLOT(socket, socket_sent) = sum;
    Py_DECREF(old);
    return 0;
}

/* Sends one datagram, from the source address in `control` if there is one. WAIT where it is for the pure twin. */
static enum outcome try_datagram(PyObject *socket, Channel *channel, PyObject *data, PyObject *address,
                                  PyObject *control, Py_ssize_t *taken) {
    struct sockaddr_storage raw;
    socklen_t size;
    int fd;
    if (!PyBytes_CheckExact(data) || SLOT(socket, socket_patience) != Py_None)
        return WAIT;
    size = raw_address(*(int *)((char *)socket + socket_family), address, &raw);
    if (size == 0)
        return WAIT;
    if (channel != NULL) {
        if (channel->streak >= STREAK || slot_of((PyObject *)channel, offsetof(Channel, poller)) == NULL)
            return WAIT;
        fd = channel->fd;
    } else {
        PyObject *number = PyObject_CallMethodNoArgs(socket, name_fileno);
        if (number == NULL)
            return FAILED;
        fd = (int)PyLong_AsLong(number);
        Py_DECREF(number);
        if (fd < 0)
            return PyErr_Occurred() ? FAILED : WAIT;
    }
    if (PySys_Audit(control ? "socket.sendmsg" : "socket.sendto", "OO", socket, address) < 0)
        return FAILED;
    if (channel != NULL && !is_somebody(channel->poller))
        return WAIT; /* the hook has closed it */
    struct iovec piece = {PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)};
    struct msghdr header = {.msg_name = &raw, .msg_namelen = size, .msg_iov = &piece, .msg_iovlen = 1};
    if (control != NULL) {
        header.msg_control = PyBytes_AS_STRING(control);
        header.msg_controllen = PyBytes_GET_SIZE(control);
    }
    ssize_t sent;
    do
        sent = control ? sendmsg(fd, &header, MSG_DONTWAIT)
                       : sendto(fd, piece.iov_base, piece.iov_len, MSG_DONTWAIT, (struct sockaddr *)&raw, size);
    while (sent < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    if (sent < 0) {
        if (PyErr_Occurred())
            return FAILED;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return WAIT; /* it finds that out as well, and waits */
        PyErr_SetFromErrno(PyExc_OSError);
        return FAILED;
    }
    if (channel != NULL)
        channel->streak++;
    *taken = sent;
    return add_sent(socket, channel, sent) < 0 ? FAILED : DONE;
}

/* An audit hook may close the socket, and with it let the channel go. */
static enum outcome send_datagram(PyObject *socket, Channel *channel, PyObject *data, PyObject *address,
                                  PyObject *control, Py_ssize_t *taken) {
    Py_XINCREF(channel);
    enum outcome outcome = try_datagram(socket, channel, data, address, control, taken);
    Py_XDECREF(channel);
    return outcome;
}

/* Whether whoever calls may send by `socket` without another thought, and the channel to count in. */
static int may_send(PyObject *socket, Channel **channel) {
    PyObject *green = GREENLET_CURRENT();
    if (green == NULL)
        return -1;
    int is_green = Py_IS_TYPE(green, green_type);
    *channel = is_green ? usable_channel(socket, SLOT(green, green_poller)) : NULL;
    Py_DECREF(green);
    return !is_green || *channel != NULL;
}

static PyObject *socket_sendto(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Channel *channel = NULL;
    Py_ssize_t taken;
    if (count == 2) {
        int may = may_send(self, &channel);
        if (may < 0)
            return NULL;
        switch (may ? send_datagram(self, channel, args[0], args[1], NULL, &taken) : WAIT) {
        case DONE:
            return PyLong_FromSsize_t(taken);
        case FAILED:
            return NULL;
        case WAIT:
            break;
        }
    }
    return call_pure(pure_sendto, self, args, count, NULL);
}

static PyMethodDef sendto_method = {"sendto", (PyCFunction)(void (*)(void))socket_sendto, METH_FASTCALL,
                                    "sendto(data[, flags], address) -> count"};

/* send_from(socket, data, address, control) -> count; None where that is for the pure twin. */
PyObject *send_from(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    Channel *channel;
    Py_ssize_t taken;
    if (count != 4 || !PyBytes_CheckExact(args[3])) {
        PyErr_SetString(PyExc_TypeError, "send_from(socket, data, address, control)");
        return NULL;
    }
    if (plain_socket_type == NULL || !Py_IS_TYPE(args[0], plain_socket_type))
        Py_RETURN_NONE;
    int may = may_send(args[0], &channel);
    if (may < 0)
        return NULL;
    switch (may ? send_datagram(args[0], channel, args[1], args[2], args[3], &taken) : WAIT) {
    case DONE:
        return PyLong_FromSsize_t(taken);
    case FAILED:
        return NULL;
    case WAIT:
        break;
    }
    Py_RETURN_NONE;
}

/* install_sendto(cooperative socket class, _socket.socket) */
PyObject *install_sendto(PyObject *module, PyObject *args) {
    PyObject *type, *raw;
    if (!PyArg_ParseTuple(args, "O!O!", &PyType_Type, &type, &PyType_Type, &raw))
        return NULL;
    if (find_slot(raw, "family", &socket_family) < 0 || replace_method(type, &sendto_method, &pure_sendto) < 0)
        return NULL;
    name_fileno = PyUnicode_InternFromString("fileno");
    if (name_fileno == NULL)
        return NULL;
    Py_RETURN_NONE;
}

/* -- Sending: one sendto() of a coroutine, awaited ----------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *stream, *data, *address; /* without a stream it is done, and `data` is what it returns */
    PyObject *rest; /* the pure twin's coroutine, where it has to wait */
} Sending;

Py_ssize_t alive_sendings;

static int sending_traverse(Sending *self, visitproc visit, void *arg) {
    Py_VISIT(self->stream);
    Py_VISIT(self->data);
    Py_VISIT(self->address);
    Py_VISIT(self->rest);
    return 0;
}

static int sending_clear(Sending *self) {
    Py_CLEAR(self->stream);
    Py_CLEAR(self->data);
    Py_CLEAR(self->address);
    Py_CLEAR(self->rest);
    return 0;
}

static void sending_dealloc(Sending *self) {
    PyObject_GC_UnTrack(self);
    sending_clear(self);
    alive_sendings--;
    PyObject_GC_Del(self);
}

/* Whether the socket of a stream is one that send_datagram() knows. */
static PyObject *plain_socket(PyObject *stream) {
    PyObject *socket = SLOT(stream, stream_socket);
    return socket != NULL && Py_IS_TYPE(socket, plain_socket_type) ? socket : NULL;
}

/* What runs in it may close this, and must not be freed by that. */
static PySendResult send_rest(Sending *self, PyObject *value, PyObject **result) {
    PyObject *rest = Py_NewRef(self->rest);
    PySendResult status = PyIter_Send(rest, value, result);
    Py_DECREF(rest);
    return status;
}

static PySendResult sending_begin(Sending *self, PyObject **result) {
    PyObject *socket = plain_socket(self->stream);
    PyObject *channel = socket ? SLOT(socket, socket_channel) : NULL;
    Py_ssize_t taken;
    enum outcome outcome = WAIT;
    if (channel != NULL && Py_IS_TYPE(channel, &Channel_Type) && !is_somebody(((Channel *)channel)->writer))
        outcome = send_datagram(socket, (Channel *)channel, self->data, self->address, NULL, &taken);
    if (outcome == WAIT) {
        self->rest = PyObject_CallFunctionObjArgs(pure_stream_sendto, self->stream, self->data, self->address, NULL);
        if (self->rest == NULL)
            return PYGEN_ERROR;
        return send_rest(self, Py_None, result);
    }
    sending_clear(self);
    if (outcome == FAILED)
        return PYGEN_ERROR;
    *result = PyLong_FromSsize_t(taken);
    return *result ? PYGEN_RETURN : PYGEN_ERROR;
}

static PySendResult sending_send(Sending *self, PyObject *value, PyObject **result) {
    if (self->rest != NULL)
        return send_rest(self, value, result);
    if (self->stream != NULL)
        return sending_begin(self, result);
    if (self->data != NULL) {
        *result = self->data;
        self->data = NULL;
        return PYGEN_RETURN;
    }
    PyErr_SetString(PyExc_RuntimeError, "cannot reuse an awaited sendto()");
    return PYGEN_ERROR;
}

static PyObject *sending_send_method(Sending *self, PyObject *value) {
    PyObject *result = NULL;
    if (sending_send(self, value, &result) != PYGEN_RETURN)
        return result;
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
    Py_DECREF(result);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
    return NULL;
}

static PyObject *sending_next(Sending *self) { return sending_send_method(self, Py_None); }

static PyObject *sending_throw(Sending *self, PyObject *args) {
    if (self->rest != NULL) {
        PyObject *method = PyObject_GetAttrString(self->rest, "throw");
        PyObject *result = method ? PyObject_Call(method, args, NULL) : NULL;
        Py_XDECREF(method);
        return result;
    }
    PyObject *type, *value = NULL, *traceback = NULL;
    if (!PyArg_UnpackTuple(args, "throw", 1, 3, &type, &value, &traceback))
        return NULL;
    sending_clear(self);
    if (PyExceptionInstance_Check(type))
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
    else if (PyExceptionClass_Check(type))
        PyErr_SetObject(type, value);
    else
        PyErr_SetString(PyExc_TypeError, "exceptions must be classes or instances deriving from BaseException");
    return NULL;
}

static PyObject *sending_close(Sending *self, PyObject *unused) {
    PyObject *result = self->rest ? PyObject_CallMethod(self->rest, "close", NULL) : Py_NewRef(Py_None);
    sending_clear(self);
    return result;
}

static PyAsyncMethods sending_async = {.am_await = PyObject_SelfIter, .am_send = (sendfunc)sending_send};

static PyMethodDef sending_methods[] = {
    {"send", (PyCFunction)sending_send_method, METH_O, NULL},
    {"throw", (PyCFunction)sending_throw, METH_VARARGS, NULL},
    {"close", (PyCFunction)sending_close, METH_NOARGS, NULL},
    {NULL},
};

PyTypeObject Sending_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jackfield.reactor._native.Sending",
    .tp_basicsize = sizeof(Sending),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)sending_dealloc,
    .tp_traverse = (traverseproc)sending_traverse,
    .tp_clear = (inquiry)sending_clear,
    .tp_as_async = &sending_async,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)sending_next,
    .tp_methods = sending_methods,
    .tp_doc = "A sendto() to be awaited.",
};

/* One that has been done: to be awaited for the count. */
PyObject *make_sent(Py_ssize_t size) {
    PyObject *count = PyLong_FromSsize_t(size);
    Sending *sending = count ? PyObject_GC_New(Sending, &Sending_Type) : NULL;
    if (sending == NULL) {
        Py_XDECREF(count);
        return NULL;
    }
    alive_sendings++;
    sending->data = count;
    sending->stream = sending->address = sending->rest = NULL;
    PyObject_GC_Track(sending);
    return (PyObject *)sending;
}

static PyObject *stream_sendto(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    if (count == 2 && names == NULL && PyBytes_CheckExact(args[0]) && plain_socket(self) != NULL) {
        Sending *sending = PyObject_GC_New(Sending, &Sending_Type);
        if (sending == NULL)
            return NULL;
        alive_sendings++;
        sending->stream = Py_NewRef(self);
        sending->data = Py_NewRef(args[0]);
        sending->address = Py_NewRef(args[1]);
        sending->rest = NULL;
        PyObject_GC_Track(sending);
        return (PyObject *)sending;
    }
    return call_pure(pure_stream_sendto, self, args, count, names);
}

static PyMethodDef stream_sendto_method = {"sendto", (PyCFunction)(void (*)(void))stream_sendto,
                                           METH_FASTCALL | METH_KEYWORDS,
                                           "``sendto(data, address)`` or ``sendto(data, flags, address)``."};

/* install_stream_sendto(stream class, socket class) */
PyObject *install_stream_sendto(PyObject *module, PyObject *args) {
    PyObject *type, *socket;
    if (!PyArg_ParseTuple(args, "O!O!", &PyType_Type, &type, &PyType_Type, &socket))
        return NULL;
    if (find_slot(type, "socket", &stream_socket) < 0)
        return NULL;
    plain_socket_type = (PyTypeObject *)Py_NewRef(socket);
    if (replace_method(type, &stream_sendto_method, &pure_stream_sendto) < 0)
        return NULL;
    Py_RETURN_NONE;
}

int prepare_datagrams(void) { return PyType_Ready(&Sending_Type); }

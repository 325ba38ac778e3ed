/* Replies of one batch, gathered and sent by one call. The twins of sendto in src/jackfield/replies.py, where a reply
 * may be gathered, and of _send_gathered in src/jackfield/door/outgoing.py. */
#define _GNU_SOURCE
#include "native.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

/* As in src/jackfield/door/outgoing.py. */
enum { MOST = 64, LONGEST = 8192 };

static PyObject *pure_sendto, *pure_async_sendto;
static PyTypeObject *gathering_type;
static Py_ssize_t my_socket, my_may_reply, my_outgoing, my_control, my_host;
static Py_ssize_t out_socket, out_pending, out_peer, out_free;
static Py_ssize_t async_socket;

/* Whether a limit lets the reply out; -1 with an exception. */
static int may_reply(PyObject *self, PyObject *outgoing, PyObject *peer, Py_ssize_t size) {
    PyObject *free = SLOT(outgoing, out_free);
    int is_free = PyTuple_GET_SIZE(peer) > 0 && free != NULL && PySet_Check(free)
                      ? PySet_Contains(free, PyTuple_GET_ITEM(peer, 0)) : 0;
    if (is_free)
        return is_free;
    PyObject *bytes = PyLong_FromSsize_t(size);
    PyObject *args[] = {peer, bytes};
    PyObject *verdict = bytes ? PyObject_Vectorcall(SLOT(self, my_may_reply), args, 2, NULL) : NULL;
    Py_XDECREF(bytes);
    int yes = verdict ? PyObject_IsTrue(verdict) : -1;
    Py_XDECREF(verdict);
    return yes;
}

/* The peer in hand, a new reference, if it is to whom the reply goes; NULL where that is not to be gathered. */
static PyObject *peer_of(PyObject *self, PyObject *outgoing, PyObject *data, PyObject *address) {
    PyObject *peer = slot_of(outgoing, out_peer), *pending = SLOT(outgoing, out_pending);
    if (peer == NULL || !PyTuple_CheckExact(peer) || PyTuple_GET_SIZE(peer) == 0 || !PyBytes_CheckExact(data) ||
        PyBytes_GET_SIZE(data) > LONGEST || pending == NULL || !PyList_CheckExact(pending) ||
        PyList_GET_SIZE(pending) >= MOST)
        return NULL;
    PyObject *host = slot_of(self, my_host), *its_host = PyTuple_GET_ITEM(peer, 0);
    if (host != NULL && (!PyUnicode_Check(its_host) || PyUnicode_Compare(host, its_host) != 0))
        return NULL;
    Py_INCREF(peer);
    if (address != peer && PyObject_RichCompareBool(address, peer, Py_EQ) != 1) {
        PyErr_Clear(); /* the pure twin compares them once more, and says so */
        Py_CLEAR(peer);
    }
    return peer;
}

/* Takes a reply in. WAIT where it is for the pure twin. */
static enum outcome gather(PyObject *self, PyObject *data, PyObject *address) {
    PyObject *outgoing = SLOT(self, my_outgoing);
    PyObject *peer = peer_of(self, outgoing, data, address);
    if (peer == NULL)
        return WAIT;
    enum outcome outcome = FAILED;
    PyObject *reply = NULL;
    Py_INCREF(outgoing);
    int may = may_reply(self, outgoing, peer, PyBytes_GET_SIZE(data));
    if (may < 0)
        goto done;
    if (may) {
        PyObject *control = SLOT(self, my_control);
        if (PySys_Audit(control != Py_None ? "socket.sendmsg" : "socket.sendto", "OO", SLOT(outgoing, out_socket),
                        address) < 0)
            goto done;
        reply = PyTuple_Pack(4, data, peer, control, SLOT(self, my_socket));
        if (reply == NULL || PyList_Append(SLOT(outgoing, out_pending), reply) < 0)
            goto done;
    }
    outcome = DONE;
done:
    Py_XDECREF(reply);
    Py_DECREF(peer);
    Py_DECREF(outgoing);
    return outcome;
}

static PyObject *gathering_sendto(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    switch (count == 2 ? gather(self, args[0], args[1]) : WAIT) {
    case DONE:
        return PyLong_FromSsize_t(PyBytes_GET_SIZE(args[0]));
    case FAILED:
        return NULL;
    case WAIT:
        break;
    }
    return call_pure(pure_sendto, self, args, count, NULL);
}

static PyObject *async_sendto(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    PyObject *blocking = SLOT(self, async_socket);
    enum outcome outcome = WAIT;
    if (count == 2 && blocking != NULL && Py_IS_TYPE(blocking, gathering_type))
        outcome = gather(blocking, args[0], args[1]);
    if (outcome == DONE)
        return make_sent(PyBytes_GET_SIZE(args[0]));
    return outcome == FAILED ? NULL : call_pure(pure_async_sendto, self, args, count, NULL);
}

static PyMethodDef sendto_method = {"sendto", (PyCFunction)(void (*)(void))gathering_sendto, METH_FASTCALL,
                                    "``sendto(data, address)`` or ``sendto(data, flags, address)``."};
static PyMethodDef async_sendto_method = {"sendto", (PyCFunction)(void (*)(void))async_sendto, METH_FASTCALL,
                                          "``await sendto(data, address)`` or ``await sendto(data, flags, address)``."};

/* install_gathering(gathering socket class, its twin for coroutines, Outgoing) */
PyObject *install_gathering(PyObject *module, PyObject *args) {
    PyObject *type, *async_type, *outgoing;
    if (!PyArg_ParseTuple(args, "O!O!O!", &PyType_Type, &type, &PyType_Type, &async_type, &PyType_Type, &outgoing))
        return NULL;
    if (find_slot(type, "_socket", &my_socket) < 0 || find_slot(type, "_may_reply", &my_may_reply) < 0 ||
        find_slot(type, "_outgoing", &my_outgoing) < 0 || find_slot(type, "_control", &my_control) < 0 ||
        find_slot(type, "_host", &my_host) < 0 || find_slot(async_type, "socket", &async_socket) < 0 ||
        find_slot(outgoing, "socket", &out_socket) < 0 || find_slot(outgoing, "pending", &out_pending) < 0 ||
        find_slot(outgoing, "peer", &out_peer) < 0 || find_slot(outgoing, "free", &out_free) < 0)
        return NULL;
    gathering_type = (PyTypeObject *)Py_NewRef(type);
    if (replace_method(type, &sendto_method, &pure_sendto) < 0 ||
        replace_method(async_type, &async_sendto_method, &pure_async_sendto) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* -- at the end of a batch ----------------------------------------------------------------------------------------- */

static struct sockaddr_storage addresses[MOST];
static struct iovec pieces[MOST];
static struct mmsghdr headers[MOST];

/* How many of the first replies were made ready; fewer where one is for the pure way. */
static int prepare_replies(int family, PyObject *pending) {
    Py_ssize_t count = PyList_GET_SIZE(pending);
    int ready = 0;
    for (; ready < count && ready < MOST; ready++) {
        PyObject *reply = PyList_GET_ITEM(pending, ready);
        if (!PyTuple_CheckExact(reply) || PyTuple_GET_SIZE(reply) != 4)
            break;
        PyObject *data = PyTuple_GET_ITEM(reply, 0), *control = PyTuple_GET_ITEM(reply, 2);
        socklen_t size = raw_address(family, PyTuple_GET_ITEM(reply, 1), &addresses[ready]);
        if (size == 0 || !PyBytes_CheckExact(data))
            break;
        pieces[ready] = (struct iovec){PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)};
        headers[ready].msg_hdr = (struct msghdr){
            .msg_name = &addresses[ready], .msg_namelen = size, .msg_iov = &pieces[ready], .msg_iovlen = 1};
        if (PyBytes_CheckExact(control)) {
            headers[ready].msg_hdr.msg_control = PyBytes_AS_STRING(control);
            headers[ready].msg_hdr.msg_controllen = PyBytes_GET_SIZE(control);
        }
    }
    return ready;
}

/* send_gathered(socket, list of replies) -> 0; or the number of the error that the first one left met. Those that were
 * sent are taken out: nobody else runs in between. */
PyObject *send_gathered(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    if (count != 2 || !PyList_CheckExact(args[1]) || plain_socket_type == NULL || !Py_IS_TYPE(args[0], plain_socket_type)) {
        PyErr_SetString(PyExc_TypeError, "send_gathered(socket, list)");
        return NULL;
    }
    PyObject *socket = args[0], *pending = args[1];
    PyObject *number = PyObject_CallMethodNoArgs(socket, name_fileno);
    long fd = number ? PyLong_AsLong(number) : -1;
    Py_XDECREF(number);
    if (fd < 0)
        return PyErr_Occurred() ? NULL : PyLong_FromLong(EBADF);
    while (PyList_GET_SIZE(pending)) {
        int ready = prepare_replies(*(int *)((char *)socket + socket_family), pending);
        if (ready == 0)
            return PyLong_FromLong(EINVAL);
        int sent = sendmmsg((int)fd, headers, ready, MSG_DONTWAIT);
        if (sent <= 0)
            return PyLong_FromLong(sent < 0 ? errno : EAGAIN);
        Py_ssize_t bytes = 0;
        for (int i = 0; i < sent; i++)
            bytes += headers[i].msg_len;
        if (PyList_SetSlice(pending, 0, sent, NULL) < 0 || add_sent(socket, NULL, bytes) < 0)
            return NULL;
    }
    return PyLong_FromLong(0);
}

/* -- the look for a handler that blocks ---------------------------------------------------------------------------- */

/* wait_held_up(state, seconds, quiet) -> number, without the interpreter in between. */
PyObject *wait_held_up(PyObject *module, PyObject *args) {
    enum { BATCHES, IN_HAND, OVER, NUMBERS };
    Py_buffer buffer;
    double seconds;
    int quiet, still = 0;
    if (!PyArg_ParseTuple(args, "w*di", &buffer, &seconds, &quiet))
        return NULL;
    if (buffer.len != NUMBERS * (Py_ssize_t)sizeof(long long)) {
        PyBuffer_Release(&buffer);
        PyErr_SetString(PyExc_TypeError, "wait_held_up(state, seconds, quiet)");
        return NULL;
    }
    long long *state = buffer.buf, seen = __atomic_load_n(&state[BATCHES], __ATOMIC_RELAXED);
    struct timespec tick = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    Py_BEGIN_ALLOW_THREADS
    while (still < quiet && !__atomic_load_n(&state[OVER], __ATOMIC_RELAXED)) {
        nanosleep(&tick, NULL);
        long long batches = __atomic_load_n(&state[BATCHES], __ATOMIC_RELAXED);
        if (batches != seen) {
            seen = batches;
            still = 0;
        } else if (__atomic_load_n(&state[IN_HAND], __ATOMIC_RELAXED)) {
            seen = -1;
            break;
        } else
            still++;
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&buffer);
    return PyLong_FromLongLong(seen);
}

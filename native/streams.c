/* What a coroutine awaits to receive and to send. The twins of AsyncSocket.recv and AsyncSocket.sendall in
 * src/jackfield/streams.py, which they call for all that is not common. */
#include "native.h"

Py_ssize_t alive_receives;

static PyTypeObject *socket_type;
static Py_ssize_t stream_socket;
static PyObject *pure_recv, *pure_sendall, *pure_send_rest, *current_task, *wait_in_future;
static PyObject *done;

/* -- StopIteration, by which an awaited object returns its value --------------------------------------------------- */

/* From 3.12 on the interpreter asks a foreign awaitable by tp_iternext alone, and making the exception would be a sixth
 * of all that a message costs. So one is kept, and used again when nobody else holds it. */
#if PY_VERSION_HEX >= 0x030c0000
static PyStopIterationObject *stop;

static void stop_with(PyObject *value) {
    if (stop == NULL || Py_REFCNT(stop) != 1 || stop->traceback != NULL || stop->context != NULL) {
        Py_XSETREF(stop, (PyStopIterationObject *)PyObject_CallNoArgs(PyExc_StopIteration));
        if (stop == NULL)
            return;
    }
    Py_XSETREF(stop->value, Py_NewRef(value));
    PyErr_SetRaisedException(Py_NewRef((PyObject *)stop));
}

/* What was returned last must not live on here. */
static void clear_stop(void) {
    if (stop != NULL && Py_REFCNT(stop) == 1 && stop->value != Py_None)
        Py_XSETREF(stop->value, Py_NewRef(Py_None));
}
#else
static void stop_with(PyObject *value) {
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
}

static void clear_stop(void) {}
#endif

/* -- Receive: one recv(), awaited --------------------------------------------------------------------------------- */

/* The memory of those that are done with. */
static Receive *spare[64];
static int spares;

static PyObject *receive_make(PyObject *socket, Channel *channel, Py_ssize_t size) {
    Receive *self;
    if (spares > 0) {
        self = spare[--spares];
        (void)PyObject_Init((PyObject *)self, &Receive_Type);
    } else {
        self = PyObject_GC_New(Receive, &Receive_Type);
        if (self == NULL)
            return NULL;
    }
    alive_receives++;
    self->socket = Py_NewRef(socket);
    self->channel = (Channel *)Py_NewRef((PyObject *)channel);
    self->size = size;
    self->task = self->future = NULL;
    self->yielded = 0;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static int receive_traverse(Receive *self, visitproc visit, void *arg) {
    Py_VISIT(self->socket);
    Py_VISIT(self->channel);
    Py_VISIT(self->task);
    Py_VISIT(self->future);
    return 0;
}

static int receive_clear(Receive *self) {
    /* The channel first: without one it is done with, whatever code the end of the others runs. */
    Py_CLEAR(self->channel);
    Py_CLEAR(self->socket);
    Py_CLEAR(self->task);
    Py_CLEAR(self->future);
    return 0;
}

static void receive_dealloc(Receive *self) {
    PyObject_GC_UnTrack(self);
    receive_clear(self);
    alive_receives--;
#ifndef __SANITIZE_ADDRESS__ /* which is to see each of them freed */
    if (spares < (int)(sizeof spare / sizeof *spare)) {
        spare[spares++] = self;
        return;
    }
#endif
    PyObject_GC_Del(self);
}

/* No longer waits. */
static int withdraw(Receive *self) {
    if (self->channel != NULL && self->task != NULL && self->channel->reader == self->task)
        Py_CLEAR(self->channel->reader);
    if (self->future == NULL)
        return 0;
    PyObject *result = PyObject_CallMethod(self->future, "cancel", NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Another task waits already: that is told, with the names of both. */
static PySendResult conflicting(Receive *self) {
    PyObject *task = PyObject_CallNoArgs(current_task);
    if (task != NULL) {
        raise_conflict(self->channel, task);
        Py_DECREF(task);
    }
    return PYGEN_ERROR;
}

/* A task waits by this very object, and another one awaits it too. Nobody would resume the first one again. */
static int is_awaited_twice(Receive *self) {
    PyObject *task = PyObject_CallNoArgs(current_task);
    if (task == NULL)
        PyErr_Clear(); /* driven by hand, where no loop runs */
    int twice = task != self->task;
    Py_XDECREF(task);
    if (twice)
        PyErr_SetString(PyExc_RuntimeError, "this recv() is being awaited already");
    return twice;
}

/* The future was resolved: by readiness, or it was cancelled, which is raised as awaiting it would. */
static int leave_future(Receive *self) {
    PyObject *result = PyObject_CallMethod(self->future, "result", NULL);
    Py_CLEAR(self->future);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static PySendResult receive_send(Receive *self, PyObject *value, PyObject **result) {
    if (self->channel == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse an awaited recv()");
        return PYGEN_ERROR;
    }
    if (self->task != NULL && self->channel->reader == self->task && is_awaited_twice(self))
        return PYGEN_ERROR;
    if (self->future != NULL && leave_future(self) < 0)
        return PYGEN_ERROR;
    self->yielded = 0;
    enum outcome outcome = WAIT;
    if (self->channel->readable)
        outcome = receive_now(self->socket, self->channel, self->size, result);
    if (outcome == WAIT) {
        clear_stop();
        if (is_somebody(self->channel->reader) && self->channel->reader != self->task)
            return conflicting(self);
        self->yielded = 1;
        *result = Py_NewRef((PyObject *)self);
        return PYGEN_NEXT;
    }
    receive_clear(self);
    return outcome == DONE ? PYGEN_RETURN : PYGEN_ERROR;
}

static PyObject *receive_next(Receive *self) {
    PyObject *result = NULL;
    PySendResult status = receive_send(self, Py_None, &result);
    if (status == PYGEN_RETURN) {
        stop_with(result);
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *receive_send_method(Receive *self, PyObject *value) { return receive_next(self); }

static PyObject *receive_throw(Receive *self, PyObject *args) {
    PyObject *type, *value = NULL, *traceback = NULL;
    if (!PyArg_UnpackTuple(args, "throw", 1, 3, &type, &value, &traceback) || withdraw(self) < 0)
        return NULL;
    receive_clear(self);
    if (PyExceptionInstance_Check(type))
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
    else if (PyExceptionClass_Check(type))
        PyErr_SetObject(type, value);
    else
        PyErr_SetString(PyExc_TypeError, "exceptions must be classes or instances deriving from BaseException");
    return NULL;
}

static PyObject *receive_close(Receive *self, PyObject *unused) {
    if (withdraw(self) < 0)
        return NULL;
    receive_clear(self);
    Py_RETURN_NONE;
}

/* To a task of asyncio's, what was yielded is a future, told by its _asyncio_future_blocking: from the first such
 * question on it stands for one that is resolved when the channel may be read. */
static int become_future(Receive *self, PyObject *name) {
    if (self->future != NULL)
        return 1;
    if (!self->yielded || self->task != NULL || !PyUnicode_Check(name) ||
        PyUnicode_CompareWithASCIIString(name, "_asyncio_future_blocking") != 0)
        return 0;
    self->future = PyObject_CallOneArg(wait_in_future, (PyObject *)self->channel);
    return self->future == NULL ? -1 : 1;
}

static PyObject *receive_getattr(Receive *self, PyObject *name) {
    PyObject *found = PyObject_GenericGetAttr((PyObject *)self, name);
    if (found != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError) || self->channel == NULL)
        return found;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    int is_future = become_future(self, name);
    if (is_future == 0) {
        PyErr_Restore(type, value, traceback);
        return NULL;
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return is_future < 0 ? NULL : PyObject_GetAttr(self->future, name);
}

static int receive_setattr(Receive *self, PyObject *name, PyObject *value) {
    if (self->future != NULL)
        return PyObject_SetAttr(self->future, name, value);
    return PyObject_GenericSetAttr((PyObject *)self, name, value);
}

static PyAsyncMethods receive_async = {.am_await = PyObject_SelfIter, .am_send = (sendfunc)receive_send};

static PyMethodDef receive_methods[] = {
    {"send", (PyCFunction)receive_send_method, METH_O, NULL},
    {"throw", (PyCFunction)receive_throw, METH_VARARGS, NULL},
    {"close", (PyCFunction)receive_close, METH_NOARGS, NULL},
    {NULL},
};

PyTypeObject Receive_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jackfield.reactor._native.Receive",
    .tp_basicsize = sizeof(Receive),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)receive_dealloc,
    .tp_traverse = (traverseproc)receive_traverse,
    .tp_clear = (inquiry)receive_clear,
    .tp_as_async = &receive_async,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)receive_next,
    .tp_getattro = (getattrofunc)receive_getattr,
    .tp_setattro = (setattrofunc)receive_setattr,
    .tp_methods = receive_methods,
    .tp_doc = "A recv() to be awaited.",
};

/* -- Done: an awaitable with nothing left to do -------------------------------------------------------------------- */

static PySendResult done_send(PyObject *self, PyObject *value, PyObject **result) {
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

static PyObject *done_next(PyObject *self) { return NULL; /* StopIteration, without a value */ }

static PyAsyncMethods done_async = {.am_await = PyObject_SelfIter, .am_send = done_send};

PyTypeObject Done_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jackfield.reactor._native.Done",
    .tp_basicsize = sizeof(PyObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_as_async = &done_async,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = done_next,
    .tp_doc = "An awaitable with nothing left to do.",
};

/* -- the methods --------------------------------------------------------------------------------------------------- */

/* The channel of a stream's socket, if nothing has to be thought about first; borrowed. */
static Channel *stream_channel(PyObject *self, PyObject **socket) {
    *socket = SLOT(self, stream_socket);
    if (*socket == NULL || !PyObject_TypeCheck(*socket, socket_type))
        return NULL;
    PyObject *channel = SLOT(*socket, socket_channel);
    return channel != NULL && Py_IS_TYPE(channel, &Channel_Type) ? (Channel *)channel : NULL;
}

static PyObject *stream_recv(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *socket;
    Channel *channel = count == 1 && names == NULL && PyLong_CheckExact(args[0]) ? stream_channel(self, &socket) : NULL;
    if (channel != NULL) {
        Py_ssize_t size = PyLong_AsSsize_t(args[0]);
        if (size > 0 && size < ABSURD)
            return receive_make(socket, channel, size);
        PyErr_Clear();
    }
    return call_pure(pure_recv, self, args, count, names);
}

static PyObject *stream_sendall(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *socket;
    Channel *channel =
        count == 1 && names == NULL && PyBytes_CheckExact(args[0]) ? stream_channel(self, &socket) : NULL;
    if (channel == NULL || !channel->writable || is_somebody(channel->writer) || !is_somebody(channel->poller))
        return call_pure(pure_sendall, self, args, count, names);
    Py_ssize_t taken;
    switch (send_now(socket, channel, args[0], &taken)) {
    case DONE:
        return Py_NewRef(done);
    case FAILED:
        return NULL;
    case WAIT:
        break;
    }
    return PyObject_CallFunction(pure_send_rest, "OOni", self, args[0], taken, 0);
}

static PyMethodDef recv_method = {"recv", (PyCFunction)(void (*)(void))stream_recv, METH_FASTCALL | METH_KEYWORDS,
                                  "At most bufsize bytes, as soon as there are any; b\"\" when the peer has ended."};
static PyMethodDef sendall_method = {"sendall", (PyCFunction)(void (*)(void))stream_sendall,
                                     METH_FASTCALL | METH_KEYWORDS, "Send all of data. Await the result."};

/* install_stream(stream class, socket class, asyncio's current_task, function that makes a future of a channel) */
PyObject *install_stream(PyObject *module, PyObject *args) {
    PyObject *type, *socket, *current, *function;
    if (!PyArg_ParseTuple(args, "O!O!OO", &PyType_Type, &type, &PyType_Type, &socket, &current, &function))
        return NULL;
    if (find_slot(type, "socket", &stream_socket) < 0)
        return NULL;
    socket_type = (PyTypeObject *)Py_NewRef(socket);
    current_task = Py_NewRef(current);
    wait_in_future = Py_NewRef(function);
    pure_send_rest = PyObject_GetAttrString(type, "_send_rest");
    if (pure_send_rest == NULL || replace_method(type, &recv_method, &pure_recv) < 0 ||
        replace_method(type, &sendall_method, &pure_sendall) < 0)
        return NULL;
    Py_RETURN_NONE;
}

int prepare_streams(void) {
    if (PyType_Ready(&Receive_Type) < 0 || PyType_Ready(&Done_Type) < 0)
        return -1;
    done = PyObject_New(PyObject, &Done_Type);
    return done ? 0 : -1;
}

/* The inner loop: epoll events in, waiters resumed. The twin of src/jackfield/reactor/pure.py. */
#include "native.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STICKY (EPOLLRDHUP | EPOLLPRI | EPOLLHUP | EPOLLERR)
#define READ (EPOLLIN | STICKY)
#define WRITE (EPOLLOUT | EPOLLHUP | EPOLLERR)

Py_ssize_t alive_channels, alive_cores;

static PyObject *name_switch, *name_popleft, *name_append;

/* -- Channel ------------------------------------------------------------------------------------------------------ */

Channel *make_channel(int fd, PyObject *poller) {
    Channel *self = (Channel *)Channel_Type.tp_alloc(&Channel_Type, 0);
    if (self == NULL)
        return NULL;
    alive_channels++;
    self->fd = fd;
    self->readable = self->writable = 1;
    self->poller = Py_NewRef(poller);
    return self;
}

static PyObject *channel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"fd", "poller", NULL};
    int fd;
    PyObject *poller;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iO", names, &fd, &poller))
        return NULL;
    return (PyObject *)make_channel(fd, poller);
}

static int channel_traverse(Channel *self, visitproc visit, void *arg) {
    Py_VISIT(self->poller);
    Py_VISIT(self->reader);
    Py_VISIT(self->writer);
    return 0;
}

static int channel_clear(Channel *self) {
    Py_CLEAR(self->poller);
    Py_CLEAR(self->reader);
    Py_CLEAR(self->writer);
    return 0;
}

static void channel_dealloc(Channel *self) {
    PyObject_GC_UnTrack(self);
    channel_clear(self);
    alive_channels--;
    Py_TYPE(self)->tp_free(self);
}

/* claim_reader and claim_writer: the message of a conflict is the pure twin's. */
static PyObject *conflict;

static PyObject *claim(Channel *self, PyObject **place, const char *verb, PyObject *waiter) {
    if (is_somebody(*place)) {
        PyObject *error = PyObject_CallFunction(conflict, "isOO", self->fd, verb, *place, waiter);
        if (error != NULL) {
            PyErr_SetObject((PyObject *)Py_TYPE(error), error);
            Py_DECREF(error);
        }
        return NULL;
    }
    Py_XSETREF(*place, Py_NewRef(waiter));
    Py_RETURN_NONE;
}

static PyObject *channel_claim_reader(Channel *self, PyObject *waiter) {
    return claim(self, &self->reader, "read", waiter);
}

static PyObject *channel_claim_writer(Channel *self, PyObject *waiter) {
    return claim(self, &self->writer, "write", waiter);
}

static PyMemberDef channel_members[] = {
    {"fd", T_INT, offsetof(Channel, fd), 0, NULL},
    {"poller", T_OBJECT, offsetof(Channel, poller), 0, NULL},
    {"readable", T_BOOL, offsetof(Channel, readable), 0, NULL},
    {"writable", T_BOOL, offsetof(Channel, writable), 0, NULL},
    {"hangup", T_BOOL, offsetof(Channel, hangup), 0, NULL},
    {"short_is_empty", T_BOOL, offsetof(Channel, short_is_empty), 0, NULL},
    {"large", T_BOOL, offsetof(Channel, large), 0, NULL},
    {"lent", T_BOOL, offsetof(Channel, lent), 0, NULL},
    {"borrowers", T_INT, offsetof(Channel, borrowers), 0, NULL},
    {"streak", T_LONG, offsetof(Channel, streak), 0, NULL},
    {"reader", T_OBJECT, offsetof(Channel, reader), 0, NULL},
    {"writer", T_OBJECT, offsetof(Channel, writer), 0, NULL},
    {NULL},
};

static PyMethodDef channel_methods[] = {
    {"claim_reader", (PyCFunction)channel_claim_reader, METH_O, NULL},
    {"claim_writer", (PyCFunction)channel_claim_writer, METH_O, NULL},
    {NULL},
};

PyTypeObject Channel_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jackfield.reactor._native.Channel",
    .tp_basicsize = sizeof(Channel),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = channel_new,
    .tp_dealloc = (destructor)channel_dealloc,
    .tp_traverse = (traverseproc)channel_traverse,
    .tp_clear = (inquiry)channel_clear,
    .tp_members = channel_members,
    .tp_methods = channel_methods,
    .tp_doc = "What is known of one registered descriptor, and who waits for it.",
};

/* -- Core --------------------------------------------------------------------------------------------------------- */

static PyObject *core_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    Core *self = (Core *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    alive_cores++;
    self->epoll = -1;
    PyObject *collections = PyImport_ImportModule("collections");
    self->runnable = collections ? PyObject_CallMethod(collections, "deque", NULL) : NULL;
    Py_XDECREF(collections);
    if (self->runnable == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int core_init(Core *self, PyObject *args, PyObject *kwargs) {
    PyObject *ready;
    if (!PyArg_ParseTuple(args, "O", &ready))
        return -1;
    PyObject *number = PyObject_CallMethod(ready, "fileno", NULL);
    if (number == NULL)
        return -1;
    self->epoll = (int)PyLong_AsLong(number);
    Py_DECREF(number);
    if (self->epoll == -1 && PyErr_Occurred())
        return -1;
    if (self->events == NULL)
        self->events = PyMem_Calloc(BATCH, sizeof(struct epoll_event));
    if (self->events == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

static int core_traverse(Core *self, visitproc visit, void *arg) {
    for (int fd = 0; fd < self->table_size; fd++)
        Py_VISIT(self->table[fd]);
    Py_VISIT(self->runnable);
    Py_VISIT(self->current);
    Py_VISIT(self->loop);
    Py_VISIT(self->entered);
    return 0;
}

static void empty_table(Core *self) {
    for (int fd = 0; fd < self->table_size; fd++)
        Py_CLEAR(self->table[fd]);
}

static int core_clear(Core *self) {
    empty_table(self);
    Py_CLEAR(self->runnable);
    Py_CLEAR(self->current);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->entered);
    return 0;
}

static void core_dealloc(Core *self) {
    PyObject_GC_UnTrack(self);
    core_clear(self);
    PyMem_Free(self->table);
    PyMem_Free(self->events);
    alive_cores--;
    Py_TYPE(self)->tp_free(self);
}

static Channel *channel_of(Core *self, int fd) { return fd >= 0 && fd < self->table_size ? self->table[fd] : NULL; }

static PyObject *core_find(Core *self, PyObject *number) {
    int overflow;
    long fd = PyLong_AsLongAndOverflow(number, &overflow);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    Channel *channel = overflow || fd > INT_MAX ? NULL : channel_of(self, (int)fd);
    return Py_NewRef(channel ? (PyObject *)channel : Py_None);
}

/* A copy: it is asked for seldom, and a dictionary would cost some hundred bytes for each channel. */
static PyObject *core_channels(Core *self, void *unused) {
    PyObject *channels = PyDict_New();
    for (int fd = 0; channels != NULL && fd < self->table_size; fd++) {
        if (self->table[fd] == NULL)
            continue;
        PyObject *key = PyLong_FromLong(fd);
        if (key == NULL || PyDict_SetItem(channels, key, (PyObject *)self->table[fd]) < 0)
            Py_CLEAR(channels);
        Py_XDECREF(key);
    }
    return channels;
}

int enter_channel(Core *self, Channel *channel) {
    int fd = channel->fd;
    if (fd < 0) {
        PyErr_SetString(PyExc_ValueError, "a descriptor is not negative");
        return -1;
    }
    if (fd >= self->table_size) {
        int size = self->table_size ? self->table_size : 64;
        while (size <= fd)
            size *= 2;
        Channel **table = PyMem_Realloc(self->table, sizeof(Channel *) * size);
        if (table == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        memset(table + self->table_size, 0, sizeof(Channel *) * (size - self->table_size));
        self->table = table;
        self->table_size = size;
    }
    Py_XSETREF(self->table[fd], (Channel *)Py_NewRef((PyObject *)channel));
    return 0;
}

static PyObject *core_enter(Core *self, PyObject *argument) {
    if (!Py_IS_TYPE(argument, &Channel_Type)) {
        PyErr_SetString(PyExc_TypeError, "enter() takes a Channel");
        return NULL;
    }
    if (enter_channel(self, (Channel *)argument) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Whether it was there; who calls holds it. */
int leave_channel(Core *self, Channel *channel) {
    if (channel_of(self, channel->fd) != channel)
        return 0;
    Py_CLEAR(self->table[channel->fd]);
    return 1;
}

static PyObject *core_leave(Core *self, PyObject *argument) {
    if (!Py_IS_TYPE(argument, &Channel_Type)) {
        PyErr_SetString(PyExc_TypeError, "leave() takes a Channel");
        return NULL;
    }
    return PyBool_FromLong(leave_channel(self, (Channel *)argument));
}

static PyObject *core_clear_all(Core *self, PyObject *unused) {
    self->position = self->count = 0;
    self->epoll = -1;
    empty_table(self);
    PyObject *result = PyObject_CallMethod(self->runnable, "clear", NULL);
    Py_XDECREF(result);
    if (result == NULL)
        return NULL;
    Py_RETURN_NONE;
}

/* Resumes one waiter, whose reference it takes over. */
static int resume(Core *self, PyObject *waiter) {
    PyObject *result;
    int failed;
    Py_XSETREF(self->current, Py_NewRef(waiter));
    if (Py_IS_TYPE(waiter, task_type)) {
        failed = step_task(self, waiter);
    } else {
        if (self->entered != NULL && leave_task(self) < 0)
            result = NULL;
        else if (Py_IS_TYPE(waiter, green_type))
            result = GREENLET_SWITCH(waiter);
        else
            result = PyObject_CallMethodNoArgs(waiter, name_switch);
        failed = result == NULL ? -1 : 0;
        Py_XDECREF(result);
    }
    Py_DECREF(waiter);
    return failed;
}

/* Tells a channel its event and resumes who waited for it. */
static int deliver(Core *self, Channel *channel, uint32_t mask) {
    PyObject *waiter;
    int failed = 0;
    if (mask & STICKY) {
        channel->hangup = 1;
        channel->short_is_empty = 0;
    }
    Py_INCREF(channel);
    if (mask & READ) {
        channel->readable = 1;
        waiter = channel->reader;
        if (is_somebody(waiter)) {
            channel->reader = NULL;
            failed = resume(self, waiter);
        }
    }
    if (mask & WRITE) {
        channel->writable = 1;
        waiter = channel->writer;
        if (is_somebody(waiter)) {
            channel->writer = NULL;
            if (failed) {
                /* The error goes on its way first; the writer must not wait for an edge that was told. */
                PyObject *type, *value, *traceback;
                PyErr_Fetch(&type, &value, &traceback);
                PyObject *result = PyObject_CallMethodOneArg(self->runnable, name_append, waiter);
                Py_DECREF(waiter);
                Py_XDECREF(result);
                PyErr_Restore(type, value, traceback);
            } else {
                failed = resume(self, waiter);
            }
        }
    }
    Py_DECREF(channel);
    return failed;
}

static int run_runnable(Core *self) {
    /* Only those that are here now: one that yields runs again after the others had their events. */
    for (Py_ssize_t left = PyObject_Size(self->runnable); left > 0 && self->epoll >= 0; left--) {
        PyObject *waiter = PyObject_CallMethodNoArgs(self->runnable, name_popleft);
        if (waiter == NULL || resume(self, waiter) < 0)
            return -1;
    }
    return 0;
}

/* -- lingering ---------------------------------------------------------------------------------------------------- */

/* A peer that waits for each answer sends its next message some ten microseconds later: too late for a poll that does
 * not wait, and on the way through the host loop's select it costs half as much again. So a turn that had few events
 * sleeps a moment for the next one, as long as that pays, and gives the host loop its turn after a millisecond. */
#define LINGER_NS 50000
#define TURN_NS 1000000
enum { FEW = 8, MOST_MISSES = 2, TRY_AGAIN = 64 };

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int linger(Core *self, long long began) {
#ifdef SYS_epoll_pwait2
    struct timespec moment = {.tv_nsec = LINGER_NS};
    int epoll = self->epoll, count;
    if (self->misses >= MOST_MISSES && ++self->skipped % TRY_AGAIN != 0)
        return 0;
    if (now_ns() - began > TURN_NS)
        return 0;
    Py_BEGIN_ALLOW_THREADS
    count = (int)syscall(SYS_epoll_pwait2, epoll, self->events, BATCH, &moment, NULL, 0);
    Py_END_ALLOW_THREADS
    self->misses = count > 0 ? 0 : self->misses + 1;
    return count > 0 ? count : 0; /* before Linux 5.11 there is no such call: a miss */
#else
    return 0;
#endif
}

static PyObject *core_dispatch(Core *self, PyObject *unused) {
    PyObject *result = NULL;
    long long began = 0;
    int delivered = 0;
    self->dispatching = 1;
    for (int round = 0; round < ROUNDS || (delivered < FEW * ROUNDS && began != 0); round++) {
        self->rounds++;
        if (run_runnable(self) < 0)
            goto end;
        if (self->epoll < 0) { /* closed, by one of them */
            result = Py_NewRef(Py_False);
            goto end;
        }
        /* Something is left where an exception ended the last turn; each edge is told once. */
        if (self->position >= self->count) {
            self->position = 0;
            self->count = epoll_wait(self->epoll, self->events, BATCH, 0);
            if (self->count < 0) {
                self->count = 0;
                if (errno != EINTR) {
                    PyErr_SetFromErrno(PyExc_OSError);
                    goto end;
                }
            }
        }
        Py_ssize_t waiting = PyObject_Size(self->runnable);
        if (self->count == 0 && waiting == 0 && delivered > 0 && delivered <= FEW * (round + 1)) {
            if (began == 0)
                began = now_ns();
            self->count = linger(self, began);
        }
        if (self->count == 0) {
            if (waiting > 0 && round < ROUNDS)
                continue;
            result = PyBool_FromLong(waiting > 0);
            goto end;
        }
        delivered += self->count - self->position;
        while (self->position < self->count) {
            struct epoll_event *event = &self->events[self->position++];
            int fd = event->data.fd;
            Channel *channel = channel_of(self, fd);
            if (channel != NULL && deliver(self, channel, event->events) < 0)
                goto end;
        }
    }
    result = PyBool_FromLong(PyObject_Size(self->runnable) > 0);
end:
    self->dispatching = 0;
    Py_CLEAR(self->current);
    if (self->entered != NULL && leave_task(self) < 0)
        Py_CLEAR(result);
    return result;
}

static PyMemberDef core_members[] = {
    {"runnable", T_OBJECT, offsetof(Core, runnable), READONLY, NULL},
    {"current", T_OBJECT, offsetof(Core, current), 0, NULL},
    {"dispatching", T_BOOL, offsetof(Core, dispatching), 0, NULL},
    {"rounds", T_LONGLONG, offsetof(Core, rounds), 0, NULL},
    {NULL},
};

static PyGetSetDef core_attributes[] = {
    {"channels", (getter)core_channels, NULL, "By descriptor: a copy.", NULL},
    {NULL},
};

static PyMethodDef core_methods[] = {
    {"find", (PyCFunction)core_find, METH_O, NULL},
    {"enter", (PyCFunction)core_enter, METH_O, NULL},
    {"leave", (PyCFunction)core_leave, METH_O, NULL},
    {"clear", (PyCFunction)core_clear_all, METH_NOARGS, NULL},
    {"dispatch", (PyCFunction)core_dispatch, METH_NOARGS,
     "Resume all who can run, poll, resume all who became ready; a few rounds. True if some are left to run."},
    {NULL},
};

PyTypeObject Core_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jackfield.reactor._native.Core",
    .tp_basicsize = sizeof(Core),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = core_new,
    .tp_init = (initproc)core_init,
    .tp_dealloc = (destructor)core_dealloc,
    .tp_traverse = (traverseproc)core_traverse,
    .tp_clear = (inquiry)core_clear,
    .tp_members = core_members,
    .tp_getset = core_attributes,
    .tp_methods = core_methods,
    .tp_doc = "The queue of those who can run, and the loop that resumes them.",
};

/* install_poller(conflict): the error that two waiters for one direction get. */
PyObject *install_poller(PyObject *module, PyObject *function) {
    Py_XSETREF(conflict, Py_NewRef(function));
    Py_RETURN_NONE;
}

int prepare_poller(void) {
    name_switch = PyUnicode_InternFromString("switch");
    name_popleft = PyUnicode_InternFromString("popleft");
    name_append = PyUnicode_InternFromString("append");
    return name_switch && name_popleft && name_append ? 0 : -1;
}

/* What the rooms of the native twin share.
 *
 * Each does what its pure twin in src/jackfield/reactor and src/jackfield/streams.py does, for the common case; anything else it hands to the
 * pure method. All of it runs with the GIL held, and no call of the kernel made here waits.
 */
#ifndef JACKFIELD_NATIVE_H
#define JACKFIELD_NATIVE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>

/* As in src/jackfield/reactor/pure.py and src/jackfield/reactor/cooperative.py: a test compares them. */
enum { BATCH = 512, ROUNDS = 8, STREAK = 64 };
#define ABSURD ((Py_ssize_t)1 << 40)

/* What is known of one registered descriptor, and who waits for it. */
typedef struct {
    PyObject_HEAD
    int fd;
    char readable, writable, hangup, lent;
    char short_is_empty; /* a read shorter than asked proves the kernel's buffer empty */
    char large; /* the last read was: the next one goes straight into the object it returns */
    int borrowers;
    long streak;
    long long received, sent; /* bytes not yet added to the socket's own counts */
    PyObject *poller;         /* NULL once forgotten */
    PyObject *reader, *writer;
} Channel;

/* The queue of those who can run, and what is left of a batch of events. */
typedef struct {
    PyObject_HEAD
    int epoll;
    char dispatching;
    int position, count; /* in events */
    int misses, skipped;  /* of lingering */
    long long rounds;
    PyObject *runnable, *current;
    PyObject *loop, *entered; /* the task that asyncio holds for the current one, and its loop */
    Channel **table; /* channels by descriptor */
    int table_size;
    struct epoll_event *events;
} Core;

/* One recv() of a coroutine, awaited. It yields itself; whoever drives the coroutine sees to it that it is resumed. */
typedef struct {
    PyObject_HEAD
    PyObject *socket;
    Channel *channel;
    Py_ssize_t size;
    PyObject *task;   /* the driven task that waits in the channel */
    PyObject *future; /* what any other task waits for */
    char yielded;     /* and nobody has taken it up yet: it may be asked to become that future */
} Receive;

extern PyTypeObject Channel_Type, Core_Type, Receive_Type, Done_Type;

/* Live objects of the types above, so that tests see one that is never freed. */
extern Py_ssize_t alive_channels, alive_cores, alive_receives;

/* greenlet's functions, from the capsule it publishes; the numbers are those of its greenlet.h, which are kept. */
extern void **greenlet_api;
#define GREENLET_CURRENT() (((PyObject * (*)(void))greenlet_api[4])())
#define GREENLET_SWITCH(green) (((PyObject * (*)(PyObject *, PyObject *, PyObject *))greenlet_api[6])((green), NULL, NULL))

/* Where a class keeps the values of its __slots__. */
#define SLOT(object, offset) (*(PyObject **)((char *)(object) + (offset)))
static inline PyObject *slot_of(PyObject *object, Py_ssize_t offset) {
    PyObject *value = SLOT(object, offset);
    return value == Py_None ? NULL : value;
}

struct place {
    const char *name;
    Py_ssize_t *at;
};

int find_slot(PyObject *type, const char *name, Py_ssize_t *offset);
int find_slots(PyObject *type, const struct place *places);
int replace_method(PyObject *type, PyMethodDef *method, PyObject **pure);
PyObject *call_pure(PyObject *pure, PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
static inline int is_somebody(PyObject *waiter) { return waiter != NULL && waiter != Py_None; }
Channel *usable_channel(PyObject *socket, PyObject *poller);

/* poller.c */
Channel *make_channel(int fd, PyObject *poller);
int enter_channel(Core *core, Channel *channel);
int leave_channel(Core *core, Channel *channel);

/* sockets.c */
extern PyTypeObject *green_type;
extern Py_ssize_t green_hub, green_poller;
extern Py_ssize_t socket_channel, socket_patience, socket_switched, socket_received, socket_sent;
extern Py_ssize_t socket_registered, socket_short_is_empty, socket_at_end;
const int *socket_numbers(PyObject *socket);
int settle_counts(PyObject *socket);
enum outcome { DONE, WAIT, FAILED };
enum outcome receive_now(PyObject *socket, Channel *channel, Py_ssize_t size, PyObject **data);
enum outcome send_now(PyObject *socket, Channel *channel, PyObject *data, Py_ssize_t *taken);
int raise_conflict(Channel *channel, PyObject *waiter);
void raise_errno(Channel *channel);
PyObject *install_socket(PyObject *module, PyObject *args);
PyObject *install_own_calls(PyObject *module, PyObject *type);

/* accepting.c */
PyObject *install_accepting(PyObject *module, PyObject *args);

/* tasks.c */
extern PyTypeObject *task_type;
int step_task(Core *core, PyObject *task);
int leave_task(Core *core);
PyObject *install_task(PyObject *module, PyObject *args);

/* guarding.c */
PyObject *install_guard(PyObject *module, PyObject *args);

/* streams.c */
PyObject *install_stream(PyObject *module, PyObject *args);

/* loading.c */
extern PyTypeObject Load_Type;
extern Py_ssize_t alive_loads;

/* datagrams.c */
extern Py_ssize_t alive_sendings;
PyObject *install_datagrams(PyObject *module, PyObject *args);
PyObject *install_sendto(PyObject *module, PyObject *args);
PyObject *install_stream_sendto(PyObject *module, PyObject *args);
PyObject *receive_datagrams(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *send_from(PyObject *module, PyObject *const *args, Py_ssize_t count);
extern PyObject *name_fileno;
extern PyTypeObject *plain_socket_type;
extern Py_ssize_t socket_family;
socklen_t raw_address(int family, PyObject *address, struct sockaddr_storage *raw);
int add_sent(PyObject *socket, Channel *channel, Py_ssize_t taken);
PyObject *make_sent(Py_ssize_t size);

/* gathering.c */
PyObject *install_gathering(PyObject *module, PyObject *args);
PyObject *send_gathered(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *wait_held_up(PyObject *module, PyObject *args);

#endif

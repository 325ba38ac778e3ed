/* How a connection comes in and how it is over, as nearly all do: an IPv4 client that no limit has anything against, and
 * an end that nobody is told of. The twins of let_in, account and note of Guard in src/jackfield/guard.py and of of and
 * remove of Connections, and of what the first two call of Admission, Connections and Deadlines. Whatever else there is
 * to think of, the pure ones do from the beginning: nothing has been changed by then. */
#include "native.h"

#include <arpa/inet.h>
#include <string.h>

enum { HERE = 1, NOT_HERE = 0, ERROR = -1 };

static PyTypeObject *admission_type, *connection_type, *connections_type, *deadlines_type;
static PyObject *pure_let_in, *pure_account, *pure_note, *pure_of, *pure_remove;
static PyObject *name_acquire, *name_release, *name_now, *name_enter, *zero;

static Py_ssize_t guard_admission, guard_connections, guard_deadlines, guard_ends, guard_events, guard_full_since;
static Py_ssize_t guard_offences, guard_watching;
static Py_ssize_t admission_lock, admission_book, admission_counts, admission_keys, admission_listed, admission_max;
static Py_ssize_t admission_per_address, admission_rated, admission_total;
static Py_ssize_t keys_mask, book_banned, book_by_hand, table_entries, subscribers;
static Py_ssize_t connections_table, connections_clock, connections_ids, connections_on_lost, connections_total;
static Py_ssize_t of_table, of_key, of_pace, of_socket, of_due, of_established, of_id, of_listener, of_peer, of_reason;
static Py_ssize_t of_since;
static Py_ssize_t deadlines_any, deadlines_earliest, deadlines_number, deadlines_slot, deadlines_slots, deadlines_until;

/* -- numbers in slots and in dictionaries --------------------------------------------------------------------------- */

/* As many as are counted of ``key``; -1 with an exception. */
static long count_of(PyObject *counts, PyObject *key) {
    PyObject *count = PyDict_GetItemWithError(counts, key);
    return count != NULL ? PyLong_AsLong(count) : PyErr_Occurred() ? -1 : 0;
}

static int set_count(PyObject *counts, PyObject *key, long count) {
    PyObject *number = PyLong_FromLong(count);
    int failed = number == NULL ? -1 : PyDict_SetItem(counts, key, number);
    Py_XDECREF(number);
    return failed;
}

static int add_to_slot(PyObject *object, Py_ssize_t slot, long difference) {
    PyObject *sum = PyLong_FromLong(PyLong_AsLong(SLOT(object, slot)) + difference);
    if (sum == NULL)
        return -1;
    Py_SETREF(SLOT(object, slot), sum);
    return 0;
}

/* Whether a limit, a number or None, lets one more in. */
static int has_room(PyObject *most, long count) { return most == Py_None || count < PyLong_AsLong(most); }

/* -- admission ------------------------------------------------------------------------------------------------------ */

/* The source of a peer of IPv4, (host, port); NULL for another. */
static PyObject *ipv4_source(PyObject *peer) {
    char packed[4];
    Py_ssize_t size;
    if (!PyTuple_CheckExact(peer) || PyTuple_GET_SIZE(peer) != 2 || !PyUnicode_CheckExact(PyTuple_GET_ITEM(peer, 0)))
        return NULL;
    const char *host = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(peer, 0), &size);
    if (host == NULL || strlen(host) != (size_t)size || inet_pton(AF_INET, host, packed) != 1)
        return NULL;
    return PyBytes_FromStringAndSize(packed, sizeof packed);
}

/* Whether nothing but numbers of connections is to be looked at, and addresses of IPv4 are counted whole. */
static int counts_only(PyObject *admission) {
    PyObject *book = SLOT(admission, admission_book);
    return SLOT(SLOT(admission, admission_keys), keys_mask) == Py_None &&
           SLOT(admission, admission_listed) == Py_False && SLOT(admission, admission_rated) == Py_False &&
           PyDict_GET_SIZE(SLOT(SLOT(book, book_banned), table_entries)) == 0 &&
           PyDict_GET_SIZE(SLOT(book, book_by_hand)) == 0;
}

static int admit_locked(PyObject *admission, PyObject *key) {
    PyObject *counts = SLOT(admission, admission_counts);
    if (!counts_only(admission) ||
        !has_room(SLOT(admission, admission_max), PyLong_AsLong(SLOT(admission, admission_total))))
        return NOT_HERE;
    long count = count_of(counts, key);
    if (count < 0)
        return ERROR;
    if (!has_room(SLOT(admission, admission_per_address), count))
        return NOT_HERE; /* unless it is exempt */
    if (set_count(counts, key, count + 1) < 0 || add_to_slot(admission, admission_total, 1) < 0)
        return ERROR;
    return HERE;
}

static int leave_locked(PyObject *admission, PyObject *key) {
    PyObject *counts = SLOT(admission, admission_counts);
    if (SLOT(SLOT(admission, admission_keys), keys_mask) != Py_None)
        return NOT_HERE;
    long count = count_of(counts, key);
    if (count <= 0)
        return count < 0 ? ERROR : NOT_HERE; /* that tells what is wrong */
    if ((count > 1 ? set_count(counts, key, count - 1) : PyDict_DelItem(counts, key)) < 0 ||
        add_to_slot(admission, admission_total, -1) < 0)
        return ERROR;
    return HERE;
}

/* Under the lock of the admission, as the pure twin changes the same numbers in several steps. */
static int locked(PyObject *admission, PyObject *peer, int (*act)(PyObject *, PyObject *)) {
    PyObject *key = ipv4_source(peer), *lock, *result;
    if (key == NULL) {
        PyErr_Clear();
        return NOT_HERE;
    }
    lock = Py_NewRef(SLOT(admission, admission_lock)); /* a fork in between replaces it */
    result = PyObject_CallMethodNoArgs(lock, name_acquire);
    int outcome = ERROR;
    if (result != NULL) {
        PyObject *type, *error, *traceback;
        Py_DECREF(result);
        outcome = act(admission, key);
        PyErr_Fetch(&type, &error, &traceback);
        result = PyObject_CallMethodNoArgs(lock, name_release);
        if (type != NULL || result != NULL)
            PyErr_Restore(type, error, traceback);
        else
            outcome = ERROR;
        Py_XDECREF(result);
    }
    Py_DECREF(lock);
    Py_DECREF(key);
    return outcome;
}

/* -- the table and the deadlines ------------------------------------------------------------------------------------- */

static PyObject *make_connection(PyObject *table, PyObject *sock, PyObject *peer, PyObject *listener) {
    PyObject *ids = SLOT(table, connections_ids), *made = connection_type->tp_alloc(connection_type, 0);
    if (made == NULL)
        return NULL;
    SLOT(made, of_table) = Py_NewRef(table);
    SLOT(made, of_peer) = Py_NewRef(peer);
    SLOT(made, of_listener) = Py_NewRef(listener);
    SLOT(made, of_reason) = Py_NewRef(Py_None);
    SLOT(made, of_established) = Py_NewRef(Py_True);
    SLOT(made, of_pace) = Py_NewRef(Py_None);
    SLOT(made, of_due) = Py_NewRef(zero);
    if ((SLOT(made, of_id) = Py_TYPE(ids)->tp_iternext(ids)) == NULL ||
        (SLOT(made, of_since) = PyObject_CallMethodNoArgs(SLOT(table, connections_clock), name_now)) == NULL ||
        (SLOT(made, of_socket) = PyWeakref_NewRef(sock, NULL)) == NULL ||
        (SLOT(made, of_key) = PyLong_FromVoidPtr(sock)) == NULL || add_to_slot(table, connections_total, 1) < 0 ||
        PyDict_SetItem(SLOT(table, connections_table), SLOT(made, of_key), made) < 0)
        Py_CLEAR(made);
    return made;
}

/* Has the deadlines of an established connection looked at. */
static int watch_deadlines(PyObject *deadlines, PyObject *connection) {
    if (SLOT(deadlines, deadlines_any) == Py_False)
        return 0;
    PyObject *slot = SLOT(deadlines, deadlines_slot), *number = SLOT(deadlines, deadlines_number);
    PyObject *earliest = SLOT(deadlines, deadlines_earliest);
    /* Those that come in these moments are in one slot, if no look has taken it away. */
    if (earliest != Py_None && PyFloat_CheckExact(SLOT(connection, of_since)) &&
        PyFloat_AS_DOUBLE(SLOT(connection, of_since)) < PyFloat_AsDouble(SLOT(deadlines, deadlines_until)) &&
        PyDict_GetItemWithError(SLOT(deadlines, deadlines_slots), number) == slot &&
        PyLong_AsLongLong(earliest) <= PyLong_AsLongLong(number)) {
        Py_SETREF(SLOT(connection, of_due), Py_NewRef(number));
        return PyDict_SetItem(slot, SLOT(connection, of_id), connection);
    }
    PyObject *result = PyErr_Occurred() ? NULL : PyObject_CallMethodOneArg(deadlines, name_enter, connection);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int forget_deadlines(PyObject *deadlines, PyObject *connection) {
    PyObject *slot = PyDict_GetItemWithError(SLOT(deadlines, deadlines_slots), SLOT(connection, of_due));
    if (slot == NULL)
        return PyErr_Occurred() ? -1 : 0;
    int found = PyDict_Contains(slot, SLOT(connection, of_id));
    return found > 0 ? PyDict_DelItem(slot, SLOT(connection, of_id)) : found;
}

/* -- the methods of the guard ---------------------------------------------------------------------------------------- */

/* Whether all that takes part is as it is made here, and nobody wants to be told. */
static int is_common(PyObject *guard) {
    PyObject *told = SLOT(SLOT(guard, guard_events), subscribers);
    return Py_IS_TYPE(SLOT(guard, guard_admission), admission_type) &&
           Py_IS_TYPE(SLOT(guard, guard_connections), connections_type) &&
           Py_IS_TYPE(SLOT(guard, guard_deadlines), deadlines_type) && PyTuple_GET_SIZE(told) == 0;
}

static PyObject *guard_let_in(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *table = SLOT(self, guard_connections), *connection;
    if (count != 3 || names != NULL || !is_common(self) || SLOT(table, connections_on_lost) != Py_None)
        return call_pure(pure_let_in, self, args, count, names);
    int outcome = locked(SLOT(self, guard_admission), args[1], admit_locked);
    if (outcome != HERE)
        return outcome == ERROR ? NULL : call_pure(pure_let_in, self, args, count, names);
    Py_SETREF(SLOT(self, guard_full_since), Py_NewRef(Py_None)); /* there was room */
    connection = make_connection(table, args[0], args[1], args[2]);
    if (connection != NULL && SLOT(self, guard_watching) == Py_True &&
        watch_deadlines(SLOT(self, guard_deadlines), connection) < 0)
        Py_CLEAR(connection);
    return connection;
}

/* In one step of the interpreter, so that no other thread is in between. */
static int count_one(PyObject *counter, PyObject *reason) {
    long count = count_of(counter, reason);
    return count < 0 ? -1 : set_count(counter, reason, count + 1);
}

static PyObject *guard_note(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    if (count != 2 || names != NULL || !PyDict_Check(args[0]))
        return call_pure(pure_note, self, args, count, names);
    if (count_one(args[0], args[1]) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *guard_account(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    if (count < 1 || count > 2 || names != NULL || !is_common(self) || !Py_IS_TYPE(args[0], connection_type))
        return call_pure(pure_account, self, args, count, names);
    PyObject *connection = args[0], *reason = SLOT(connection, of_reason);
    int outcome = reason == Py_None ? 1 : PySet_Contains(SLOT(self, guard_offences), reason);
    if (outcome != 0) /* an offence is charged */
        return outcome < 0 ? NULL : call_pure(pure_account, self, args, count, names);
    outcome = locked(SLOT(self, guard_admission), SLOT(connection, of_peer), leave_locked);
    if (outcome != HERE)
        return outcome == ERROR ? NULL : call_pure(pure_account, self, args, count, names);
    if (forget_deadlines(SLOT(self, guard_deadlines), connection) < 0 || count_one(SLOT(self, guard_ends), reason) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* -- the methods of the table ---------------------------------------------------------------------------------------- */

static PyObject *connections_of(PyObject *self, PyObject *sock) {
    PyObject *key = PyLong_FromVoidPtr(sock), *found = NULL;
    if (key == NULL)
        return NULL;
    found = PyDict_GetItemWithError(SLOT(self, connections_table), key);
    Py_DECREF(key);
    if (found == NULL && PyErr_Occurred())
        return NULL;
    return Py_NewRef(found == NULL ? Py_None : found);
}

static PyObject *connections_remove(PyObject *self, PyObject *connection) {
    PyObject *key = Py_IS_TYPE(connection, connection_type) ? SLOT(connection, of_key) : NULL;
    if (key == NULL)
        return PyObject_CallFunctionObjArgs(pure_remove, self, connection, NULL);
    PyObject *there = PyDict_GetItemWithError(SLOT(self, connections_table), key);
    if (there == connection ? PyDict_DelItem(SLOT(self, connections_table), key) < 0 : PyErr_Occurred() != NULL)
        return NULL;
    Py_RETURN_NONE;
}

#define QUICK(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

static PyMethodDef let_in_method = {"let_in", QUICK(guard_let_in), NULL};
static PyMethodDef account_method = {"account", QUICK(guard_account), NULL};
static PyMethodDef note_method = {"note", QUICK(guard_note), NULL};
static PyMethodDef of_method = {"of", connections_of, METH_O, NULL};
static PyMethodDef remove_method = {"remove", connections_remove, METH_O, NULL};

/* install_guard(Guard, Admission, its Keys, its PenaltyBook, its AddressTable, Connections, Connection, Deadlines,
 * Publisher) */
PyObject *install_guard(PyObject *module, PyObject *args) {
    PyObject *guard, *admission, *keys, *book, *table, *connections, *connection, *deadlines, *publisher;
    if (!PyArg_ParseTuple(args, "OOOOOOOOO", &guard, &admission, &keys, &book, &table, &connections, &connection,
                          &deadlines, &publisher))
        return NULL;
    const struct place of_guard[] = {
        {"admission", &guard_admission}, {"connections", &guard_connections}, {"deadlines", &guard_deadlines},
        {"ends", &guard_ends}, {"events", &guard_events}, {"_full_since", &guard_full_since},
        {"_offences", &guard_offences}, {"_watching", &guard_watching}, {NULL, NULL}};
    const struct place of_admission[] = {
        {"_lock", &admission_lock}, {"_book", &admission_book}, {"_counts", &admission_counts},
        {"_keys", &admission_keys}, {"_listed", &admission_listed}, {"_max", &admission_max},
        {"_per_address", &admission_per_address}, {"_rated", &admission_rated}, {"_total", &admission_total},
        {NULL, NULL}};
    const struct place of_book[] = {{"banned", &book_banned}, {"by_hand", &book_by_hand}, {NULL, NULL}};
    const struct place of_connections[] = {
        {"_by_socket", &connections_table}, {"clock", &connections_clock}, {"_ids", &connections_ids},
        {"on_lost", &connections_on_lost}, {"total", &connections_total}, {NULL, NULL}};
    const struct place of_connection[] = {
        {"_table", &of_table}, {"_key", &of_key}, {"_pace", &of_pace}, {"_socket", &of_socket}, {"due", &of_due},
        {"established", &of_established}, {"id", &of_id}, {"listener", &of_listener}, {"peer", &of_peer},
        {"reason", &of_reason}, {"since", &of_since}, {NULL, NULL}};
    const struct place of_deadlines[] = {
        {"any", &deadlines_any}, {"_earliest", &deadlines_earliest}, {"_number", &deadlines_number},
        {"_slot", &deadlines_slot}, {"_slots", &deadlines_slots}, {"_until", &deadlines_until}, {NULL, NULL}};
    if (find_slots(guard, of_guard) < 0 || find_slots(admission, of_admission) < 0 ||
        find_slot(keys, "_mask4", &keys_mask) < 0 || find_slots(book, of_book) < 0 ||
        find_slot(table, "entries", &table_entries) < 0 || find_slots(connections, of_connections) < 0 ||
        find_slots(connection, of_connection) < 0 || find_slots(deadlines, of_deadlines) < 0 ||
        find_slot(publisher, "_subscribers", &subscribers) < 0)
        return NULL;
    name_acquire = PyUnicode_InternFromString("acquire");
    name_release = PyUnicode_InternFromString("release");
    name_now = PyUnicode_InternFromString("now");
    name_enter = PyUnicode_InternFromString("enter");
    zero = PyLong_FromLong(0);
    if (name_acquire == NULL || name_release == NULL || name_now == NULL || name_enter == NULL || zero == NULL ||
        replace_method(guard, &let_in_method, &pure_let_in) < 0 ||
        replace_method(guard, &account_method, &pure_account) < 0 ||
        replace_method(guard, &note_method, &pure_note) < 0 || replace_method(connections, &of_method, &pure_of) < 0 ||
        replace_method(connections, &remove_method, &pure_remove) < 0)
        return NULL;
    admission_type = (PyTypeObject *)Py_NewRef(admission);
    connection_type = (PyTypeObject *)Py_NewRef(connection);
    connections_type = (PyTypeObject *)Py_NewRef(connections);
    deadlines_type = (PyTypeObject *)Py_NewRef(deadlines);
    Py_RETURN_NONE;
}

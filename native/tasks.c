/* The beginning of a driven coroutine, one step of it, and its return. The twins of DrivenTask.__init__, switch and
 * _returned in src/jackfield/reactor/driver.py: the first of them is called for whoever writes the arguments otherwise,
 * the others when the coroutine is to be interrupted. Every other end of a step is a method of the task. */
#include "native.h"

PyTypeObject *task_type;
static Py_ssize_t task_ended, task_due, task_interrupt, task_context, task_coro, task_home, task_cancel_requests;
static Py_ssize_t task_name, task_on_end, task_reactor, task_send, task_tag, task_waiting_on;
static PyObject *pure_init, *pure_switch, *parked, *asyncio_enter, *asyncio_leave, *current_tasks;
static PyObject *asyncio_register, *asyncio_unregister, *future_set_result, *name_loop, *name_tasks, *zero;
static PyObject *name_wait_for, *name_returned, *name_raised;

static PyTypeObject *future_type;

static void set_slot(PyObject *object, Py_ssize_t slot, PyObject *value) {
    Py_XSETREF(SLOT(object, slot), Py_NewRef(value));
}

/* -- the beginning ------------------------------------------------------------------------------------------------- */

/* asyncio is to know of it, or no longer. */
static int tell_asyncio(PyObject *function, PyObject *task) {
    PyObject *result = PyObject_CallOneArg(function, task);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* What asyncio's future begins with, for which its own __init__ asks the loop. */
static int begin_future(PyObject *self, PyObject *loop) {
    PyObject *nothing = PyTuple_New(0), *named = PyDict_New();
    int failed = -1;
    if (nothing != NULL && named != NULL && PyDict_SetItem(named, name_loop, loop) == 0)
        failed = future_type->tp_init(self, nothing, named);
    Py_XDECREF(nothing);
    Py_XDECREF(named);
    return failed;
}

static int begin_task(PyObject *self, PyObject *reactor, PyObject *const *args) {
    PyObject *loop = PyObject_GetAttr(reactor, name_loop), *context = NULL, *tasks = NULL;
    int failed = -1;
    if (loop == NULL || begin_future(self, loop) < 0 || (context = PyContext_CopyCurrent()) == NULL ||
        (tasks = PyObject_GetAttr(reactor, name_tasks)) == NULL)
        goto end;
    const Py_ssize_t none[] = {task_send, task_interrupt, task_waiting_on, task_tag};
    for (size_t one = 0; one < sizeof none / sizeof *none; one++)
        set_slot(self, none[one], Py_None);
    set_slot(self, task_home, loop);
    set_slot(self, task_reactor, reactor);
    set_slot(self, task_context, context);
    set_slot(self, task_ended, Py_False);
    set_slot(self, task_due, Py_True);
    set_slot(self, task_cancel_requests, zero);
    set_slot(self, task_coro, args[1]);
    set_slot(self, task_name, args[2]);
    set_slot(self, task_on_end, args[3]);
    if (tell_asyncio(asyncio_register, self) == 0)
        failed = PySet_Add(tasks, self);
end:
    Py_XDECREF(loop);
    Py_XDECREF(context);
    Py_XDECREF(tasks);
    return failed;
}

static PyObject *task_init(PyObject *self, PyObject *args, PyObject *names) {
    if (names == NULL && PyTuple_GET_SIZE(args) == 4) {
        if (begin_task(self, PyTuple_GET_ITEM(args, 0), &PyTuple_GET_ITEM(args, 0)) < 0)
            return NULL;
        Py_RETURN_NONE;
    }
    PyObject *bound = PyMethod_New(pure_init, self);
    PyObject *result = bound == NULL ? NULL : PyObject_Call(bound, args, names);
    Py_XDECREF(bound);
    return result;
}

static PyMethodDef init_method = {"__init__", (PyCFunction)(void (*)(void))task_init, METH_VARARGS | METH_KEYWORDS, NULL};

/* -- which task asyncio holds for the current one ------------------------------------------------------------------ */

/* From one step to the next only the task changes, so it is entered over the last one, and left when something else
 * has the turn. Where asyncio keeps the current tasks in a dictionary of loops (up to 3.13), that is one assignment. */
static int enter_task(Core *core, PyObject *loop, PyObject *task) {
    PyObject *both[2] = {loop, task}, *result;
    if (core->entered != NULL && current_tasks != NULL && core->loop == loop) {
        Py_SETREF(core->entered, Py_NewRef(task));
        return PyDict_SetItem(current_tasks, loop, task);
    }
    if (core->entered != NULL && leave_task(core) < 0)
        return -1;
    result = PyObject_Vectorcall(asyncio_enter, both, 2, NULL);
    if (result == NULL)
        return -1;
    Py_DECREF(result);
    Py_XSETREF(core->loop, Py_NewRef(loop));
    core->entered = Py_NewRef(task);
    return 0;
}

/* Leaves the current task; an exception that is set stays. */
int leave_task(Core *core) {
    PyObject *type, *error, *traceback, *result = NULL;
    PyErr_Fetch(&type, &error, &traceback);
    PyObject *task = core->entered;
    core->entered = NULL;
    if (current_tasks != NULL) {
        if (PyDict_DelItem(current_tasks, core->loop) == 0)
            result = Py_NewRef(Py_None);
    } else {
        PyObject *both[2] = {core->loop, task};
        result = PyObject_Vectorcall(asyncio_leave, both, 2, NULL);
    }
    Py_DECREF(task);
    if (type != NULL) {
        PyErr_Restore(type, error, traceback); /* in place of one from leaving */
        Py_XDECREF(result);
        return 0;
    }
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* -- a step -------------------------------------------------------------------------------------------------------- */

/* Puts the task where readiness will find it. */
static int park_task(PyObject *task, Receive *receive) {
    Channel *channel = receive->channel;
    channel->streak = 0;
    Py_XSETREF(channel->reader, Py_NewRef(task));
    Py_XSETREF(receive->task, Py_NewRef(task));
    return 0;
}

static int call_end(PyObject *task, PyObject *name, PyObject *value) {
    PyObject *result = PyObject_CallMethodOneArg(task, name, value);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The coroutine has returned. */
static int finish_task(PyObject *task, PyObject *value) {
    if (SLOT(task, task_interrupt) != Py_None)
        return call_end(task, name_returned, value); /* it cancelled itself and then returned */
    PyObject *tasks = PyObject_GetAttr(SLOT(task, task_reactor), name_tasks), *both[2] = {task, value};
    int failed = tasks == NULL ? -1 : PySet_Discard(tasks, task);
    Py_XDECREF(tasks);
    set_slot(task, task_ended, Py_True);
    set_slot(task, task_waiting_on, Py_None);
    if (failed < 0 || tell_asyncio(asyncio_unregister, task) < 0)
        return -1;
    PyObject *result = PyObject_Vectorcall(future_set_result, both, 2, NULL);
    Py_XDECREF(result);
    if (result == NULL)
        return -1;
    PyObject *on_end = SLOT(task, task_on_end);
    if (on_end == Py_None)
        return 0;
    SLOT(task, task_on_end) = Py_NewRef(Py_None);
    both[1] = Py_None;
    result = PyObject_Vectorcall(on_end, both, 2, NULL);
    Py_DECREF(on_end);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int step_failed(PyObject *task) {
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    int failed = call_end(task, name_raised, error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return failed;
}

static int run_step(PyObject *task) {
    PyObject *context = SLOT(task, task_context), *yielded = NULL;
    int failed;
    if (PyContext_Enter(context) < 0)
        return step_failed(task);
    PySendResult status = PyIter_Send(SLOT(task, task_coro), Py_None, &yielded);
    if (status == PYGEN_ERROR) {
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        PyContext_Exit(context);
        PyErr_Restore(type, error, traceback);
        return step_failed(task);
    }
    if (PyContext_Exit(context) < 0)
        failed = step_failed(task);
    else if (yielded == parked)
        failed = 0; /* the pure twin has put it where it waits */
    else if (status == PYGEN_RETURN)
        failed = finish_task(task, yielded);
    else if (Py_IS_TYPE(yielded, &Receive_Type) && ((Receive *)yielded)->channel != NULL &&
             ((Receive *)yielded)->future == NULL)
        failed = park_task(task, (Receive *)yielded);
    else
        failed = call_end(task, name_wait_for, yielded);
    Py_DECREF(yielded);
    return failed;
}

/* The task may end in its step, and with it the last reference to it: the caller holds one. */
int step_task(Core *core, PyObject *task) {
    if (SLOT(task, task_ended) == Py_True)
        return 0;
    if (SLOT(task, task_interrupt) != Py_None) {
        if (core->entered != NULL && leave_task(core) < 0)
            return -1;
        PyObject *result = PyObject_CallOneArg(pure_switch, task);
        Py_XDECREF(result);
        return result == NULL ? -1 : 0;
    }
    PyObject *due = SLOT(task, task_due);
    if (due != Py_False) {
        SLOT(task, task_due) = Py_NewRef(Py_False);
        Py_XDECREF(due);
    }
    if (enter_task(core, SLOT(task, task_home), task) < 0)
        return -1;
    return run_step(task);
}

/* install_task(task class, the future's that it is of, PARKED, asyncio's _enter_task, its _leave_task, what has asyncio
 * know a task and what no longer, the dictionary that entering and leaving use or None) */
PyObject *install_task(PyObject *module, PyObject *args) {
    PyObject *type, *future, *value, *enter, *leave, *enlist, *delist, *tasks;
    const struct place places[] = {
        {"_ended", &task_ended}, {"_due", &task_due}, {"_interrupt", &task_interrupt}, {"_context", &task_context},
        {"_coro", &task_coro}, {"_home", &task_home}, {"_cancel_requests", &task_cancel_requests},
        {"_name", &task_name}, {"_on_end", &task_on_end}, {"_reactor", &task_reactor}, {"_send", &task_send},
        {"tag", &task_tag}, {"_waiting_on", &task_waiting_on}, {NULL, NULL}};
    if (!PyArg_ParseTuple(args, "O!O!OOOOOO", &PyType_Type, &type, &PyType_Type, &future, &value, &enter, &leave, &enlist,
                          &delist, &tasks))
        return NULL;
    if (find_slots(type, places) < 0)
        return NULL;
    name_loop = PyUnicode_InternFromString("loop");
    name_tasks = PyUnicode_InternFromString("tasks");
    name_wait_for = PyUnicode_InternFromString("_wait_for");
    name_returned = PyUnicode_InternFromString("_returned");
    name_raised = PyUnicode_InternFromString("_raised");
    zero = PyLong_FromLong(0);
    pure_switch = PyObject_GetAttrString(type, "switch");
    future_set_result = PyObject_GetAttrString(future, "set_result");
    if (name_loop == NULL || name_tasks == NULL || name_wait_for == NULL || name_returned == NULL ||
        name_raised == NULL || zero == NULL || pure_switch == NULL || future_set_result == NULL ||
        replace_method(type, &init_method, &pure_init) < 0)
        return NULL;
    future_type = (PyTypeObject *)Py_NewRef(future);
    parked = Py_NewRef(value);
    asyncio_enter = Py_NewRef(enter);
    asyncio_leave = Py_NewRef(leave);
    asyncio_register = Py_NewRef(enlist);
    asyncio_unregister = Py_NewRef(delist);
    if (PyDict_CheckExact(tasks))
        current_tasks = Py_NewRef(tasks);
    task_type = (PyTypeObject *)Py_NewRef(type);
    Py_RETURN_NONE;
}

/* One step of a driven coroutine. The twin of DrivenTask.switch in src/jackfield/reactor/driver.py, which it calls when
 * the coroutine is to be interrupted; every end of a step but the common one is a method of the task. */
#include "native.h"

PyTypeObject *task_type;
static Py_ssize_t task_ended, task_due, task_interrupt, task_context, task_coro, task_home;
static PyObject *pure_switch, *parked, *asyncio_enter, *asyncio_leave, *current_tasks;
static PyObject *name_wait_for, *name_returned, *name_raised;

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
        failed = call_end(task, name_returned, yielded);
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

/* install_task(task class, PARKED, asyncio's _enter_task, its _leave_task, the dictionary they use or None) */
PyObject *install_task(PyObject *module, PyObject *args) {
    PyObject *type, *value, *enter, *leave, *tasks;
    if (!PyArg_ParseTuple(args, "O!OOOO", &PyType_Type, &type, &value, &enter, &leave, &tasks))
        return NULL;
    if (find_slot(type, "_ended", &task_ended) < 0 || find_slot(type, "_due", &task_due) < 0 ||
        find_slot(type, "_interrupt", &task_interrupt) < 0 || find_slot(type, "_context", &task_context) < 0 ||
        find_slot(type, "_coro", &task_coro) < 0 || find_slot(type, "_home", &task_home) < 0)
        return NULL;
    name_wait_for = PyUnicode_InternFromString("_wait_for");
    name_returned = PyUnicode_InternFromString("_returned");
    name_raised = PyUnicode_InternFromString("_raised");
    pure_switch = PyObject_GetAttrString(type, "switch");
    if (name_wait_for == NULL || name_returned == NULL || name_raised == NULL || pure_switch == NULL)
        return NULL;
    parked = Py_NewRef(value);
    asyncio_enter = Py_NewRef(enter);
    asyncio_leave = Py_NewRef(leave);
    if (PyDict_CheckExact(tasks))
        current_tasks = Py_NewRef(tasks);
    task_type = (PyTypeObject *)Py_NewRef(type);
    Py_RETURN_NONE;
}

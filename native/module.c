/* The native twin of the inner loop: the module, and how it takes the place of pure methods. */
#include "native.h"

void **greenlet_api;

PyObject *install_poller(PyObject *module, PyObject *function);
int prepare_poller(void);
int prepare_streams(void);
int prepare_datagrams(void);

/* The offset of a name of __slots__ in the instances of a class. */
int find_slot(PyObject *type, const char *name, Py_ssize_t *offset) {
    PyObject *descriptor = PyObject_GetAttrString(type, name);
    if (descriptor == NULL)
        return -1;
    int found = Py_IS_TYPE(descriptor, &PyMemberDescr_Type);
    if (found)
        *offset = ((PyMemberDescrObject *)descriptor)->d_member->offset;
    else
        PyErr_Format(PyExc_TypeError, "%R has no slot named %s", type, name);
    Py_DECREF(descriptor);
    return found ? 0 : -1;
}

/* The same of many, up to one without a name. */
int find_slots(PyObject *type, const struct place *places) {
    for (; places->name != NULL; places++)
        if (find_slot(type, places->name, places->at) < 0)
            return -1;
    return 0;
}

/* Puts a native method in the place of the pure one of that name, which is kept. */
int replace_method(PyObject *type, PyMethodDef *method, PyObject **pure) {
    PyObject *old = PyObject_GetAttrString(type, method->ml_name);
    if (old == NULL)
        return -1;
    Py_XSETREF(*pure, old);
    PyObject *descriptor = PyDescr_NewMethod((PyTypeObject *)type, method);
    if (descriptor == NULL)
        return -1;
    int failed = PyObject_SetAttrString(type, method->ml_name, descriptor);
    Py_DECREF(descriptor);
    return failed;
}

/* Calls the method that was kept, with the arguments of the native one that has left it to it. */
PyObject *call_pure(PyObject *pure, PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *call[8] = {self};
    Py_ssize_t all = count + (names == NULL ? 0 : PyTuple_GET_SIZE(names));
    if (all > 7) {
        PyErr_SetString(PyExc_TypeError, "too many arguments");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < all; i++)
        call[i + 1] = args[i];
    return PyObject_Vectorcall(pure, call, count + 1, names);
}

static PyObject *alive(PyObject *module, PyObject *unused) {
    return Py_BuildValue("{snsnsnsnsn}", "Channel", alive_channels, "Core", alive_cores, "Receive", alive_receives,
                         "Sending", alive_sendings, "Load", alive_loads);
}

static PyMethodDef functions[] = {
    {"install_poller", install_poller, METH_O, NULL},
    {"install_socket", install_socket, METH_VARARGS, NULL},
    {"install_own_calls", install_own_calls, METH_O, NULL},
    {"install_accepting", install_accepting, METH_VARARGS, NULL},
    {"install_task", install_task, METH_VARARGS, NULL},
    {"install_guard", install_guard, METH_VARARGS, NULL},
    {"install_stream", install_stream, METH_VARARGS, NULL},
    {"install_datagrams", install_datagrams, METH_VARARGS, NULL},
    {"install_sendto", install_sendto, METH_VARARGS, NULL},
    {"install_stream_sendto", install_stream_sendto, METH_VARARGS, NULL},
    {"receive_datagrams", (PyCFunction)(void (*)(void))receive_datagrams, METH_FASTCALL, NULL},
    {"send_from", (PyCFunction)(void (*)(void))send_from, METH_FASTCALL, NULL},
    {"install_gathering", install_gathering, METH_VARARGS, NULL},
    {"send_gathered", (PyCFunction)(void (*)(void))send_gathered, METH_FASTCALL, NULL},
    {"wait_held_up", wait_held_up, METH_VARARGS, NULL},
    {"alive", alive, METH_NOARGS, "How many objects of each native type live."},
    {NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "jackfield.reactor._native",
    .m_doc = "The native twin of the reactor's inner loop.",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__native(void) {
    greenlet_api = PyCapsule_Import("greenlet._C_API", 0);
    if (greenlet_api == NULL || prepare_poller() < 0 || prepare_streams() < 0 || prepare_datagrams() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (PyModule_AddType(module, &Channel_Type) < 0 || PyModule_AddType(module, &Core_Type) < 0 ||
        PyModule_AddType(module, &Receive_Type) < 0 || PyModule_AddType(module, &Done_Type) < 0 ||
        PyModule_AddType(module, &Load_Type) < 0 ||
        PyModule_AddIntConstant(module, "BATCH", BATCH) < 0 || PyModule_AddIntConstant(module, "ROUNDS", ROUNDS) < 0 ||
        PyModule_AddIntConstant(module, "STREAK", STREAK) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}

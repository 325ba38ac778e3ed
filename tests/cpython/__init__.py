"""CPython's own tests of ``socket`` and ``socketserver``, run on ours.

The tests are those of the interpreter that runs (its ``test`` package); nothing of them is kept here.
Each run happens in child processes, because a run puts our modules where the standard library's are.

==================  ==============================================================================
``runner``          starts children, feeds them one test class at a time, gathers the outcomes
``child``           one process: puts a face in place, loads CPython's test module, runs classes
``faces``           what stands where: stdlib, ours, ours on green threads, green servers
``greenly``         twins of threading, queue, time, select so that test bodies run as green threads
``broken``          deliberate damage, by which the gates prove that they can fail
``baseline``        the outcomes on the stdlib, made once for all workers of pytest-xdist
``verdict``         pure: outcomes on the stdlib against outcomes on ours, to a list of complaints
``exceptions``      the tests excused, each by name and with its reason
==================  ==============================================================================
"""

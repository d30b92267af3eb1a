"""A sandbox for model-written Python that needs neither root nor a container tool.

A worker (`zygote`) imports numpy, sympy and scipy once and forks a child per call; it never receives programs or their
output. Each call runs behind resource limits, fresh namespaces with a separate root (`namespaces`), Landlock (`files`)
and a seccomp filter (`syscalls`). The worker probes which of these the kernel allows and reports a level (`levels`). A
call is one process: it may start threads, but no child processes.

Read `call` first (the steps of one call), then `worker`. Each line below names the test that checks it.

Covered, at level 3:
- the host's files cannot be read, listed or written: test_host_files
- environment, memory, descriptors and process list of other processes are not visible: test_secrets
- no connection in or out, not even to this machine: test_network
- no process can be created, seen, signalled or traced, and none outlives a call: test_other_processes
- namespaces, mounts, privileges and all system calls outside an allow list are refused: test_kernel_surface
- memory, disk and descriptors are bounded: test_memory_disk_and_descriptor_bombs
- output is bounded, both ends kept: test_output_floods
- code that does not end is killed at its time limit: test_time_limit
- exits and crashes are error texts: test_endings_are_error_texts
- a call leaves no files, environment or modified modules to the next: test_calls_leave_no_state
- the memory of a call contains no other program and no other output: test_memory_holds_no_other_program_or_output
- files stay inaccessible without one of namespaces and Landlock (level 2): test_files_are_inaccessible_at_level_2
- the same program draws the same random numbers: test_random_numbers_depend_only_on_the_program

Not covered:
- the Python installation, system libraries and time zones can be read: test_installation_is_readable
- threads may use all cores until the time limit (a possible side channel between calls): test_threads_use_all_cores
- each call may use its memory limit and 64 MiB of /tmp, a pool that times its workers: test_memory_is_bounded_per_call
- without namespaces, disk and threads are checked only 5 times a second: test_disk_and_threads_without_namespaces
- without namespaces, deleted files held open may use 1 GiB (64 of 16 MiB): test_files_are_bounded_by_size_and_number
- a kernel bug behind one of the allowed system calls: test_allow_list_is_short
- the wall clock and the kernel version are visible: test_clock_and_kernel_version_are_visible
- so are memory, load, cores, free disk, user number, installation paths: test_what_remains_visible
- files, if namespaces and Landlock are both missing (level 1): test_files_are_accessible_at_level_1
"""

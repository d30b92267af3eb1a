"""A sandbox for model-written Python that needs neither root nor a container tool.

A worker (`zygote`) imports numpy, sympy and scipy once and forks per call; programs and what they print pass it by. Around each call stand resource limits, fresh
namespaces with a root of its own (`namespaces`), Landlock (`files`) and a seccomp filter (`syscalls`); which of them this
kernel allows is probed and reported as a level (`levels`). A call is one process: it may have threads, no children.
Each line below names the test that stands behind it.

Covered, at level 3:
- the host's files are neither read, listed nor written: test_host_files
- the environment, memory, descriptors and process list of others are not seen: test_secrets
- no connection in or out, not even to this machine: test_network
- no process is made, seen, signalled or traced, and none outlives a call: test_other_processes
- namespaces, mounts, privileges and all system calls outside an allow list are refused: test_kernel_surface
- memory, disk and descriptors are bounded: test_memory_disk_and_descriptor_bombs
- output is bounded, both ends kept: test_output_floods
- code that does not want to end is ended at its limit: test_time_limit
- exits and crashes are error texts: test_endings_are_error_texts
- nothing is handed from one call to the next: test_calls_leave_nothing_for_the_next
- nor is a program or its output found in the memory a call starts with: test_a_program_finds_no_other_program_and_no_output
- files stay closed where one of namespaces and Landlock is missing (level 2): test_files_stay_closed_at_level_2
- the same program draws the same random numbers: test_the_same_program_prints_the_same_and_another_one_draws_anew

Not covered:
- the Python installation, system libraries and time zones can be read: test_the_installation_can_be_read
- threads may use all cores until the limit (and so tell other calls something): test_threads_use_all_cores
- each call may take its memory and 64 MiB of /tmp, so a pool takes that times its workers: test_memory_is_bounded_per_call
- disk and threads, without namespaces, until the worker looks, 5 times a second: test_disk_and_threads_are_looked_at_without_namespaces
- files deleted and held open, without namespaces, up to 1 GiB (64 of 16 MiB): test_files_are_bounded_by_size_and_number
- a flaw of the kernel behind the system calls that remain: test_the_allow_list_is_short
- the wall clock and the machine's kernel version are seen: test_clock_and_kernel_are_seen
- files, where namespaces and Landlock are both missing (level 1): test_files_are_open_at_level_1
"""

"""Runs trainers against baselines on the same splits, plans and schedules, and reports what can be said.

In the order of the walk from a file to its report::

    spec                          what is compared: a YAML file, checked
    folder                        jobs, and what lies where in the folder of a benchmark
    run → prepare                 data, plans, splits and trainers are looked at; the list of jobs
            own_data              data that the benchmark plans and preprocesses itself
            preprocessed          reads splits and plans; the key of a job
            plans, equal_time     the plans of an arm; iterations that fit into the time of another
    run → queue → job             many jobs, one job: train, predict, score
            remaining             how long it still takes
            seeded                a command of nnU-Net, seeded and measured
            records               what a training left behind
            score                 predictions against their references
    report → results              everything that is done
            package               the files that a report is computed from: written, and read by whoever verifies it
            cells, portable       numbers and texts that are the same everywhere
            analysis              which differences are shown; the only file that calls the statistics
            page → tables         the texts
            figures, pictures
            manifest              SHA-256 of every file
    verify                        the same texts again, from the package alone
"""

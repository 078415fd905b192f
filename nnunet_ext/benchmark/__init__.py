"""Runs trainers and baselines on the same splits, plans and schedules, and reports which differences are shown.

The modules, in their order from a specification to its report::

    spec                          the comparison: a YAML file, checked
    folder                        jobs, and the layout of a benchmark's folder
    run → prepare                 checks data, plans, splits and trainers; lists the jobs
            own_data              data that the benchmark plans and preprocesses itself
            preprocessed          reads splits and plans; the key of a job
            plans, equal_time     the plans of an arm; iterations that fit into the time of another arm
    run → queue → job             many jobs, one job: train, predict, score
            remaining             the time that is left
            seeded                a command of nnU-Net, seeded and measured
            records               data of a finished training
            score                 predictions against their references
    report → results              the results of all finished jobs
            package               the files that a report is computed from, written and read
            cells, portable       numbers and texts that are the same everywhere
            analysis              which differences are shown; the only module that calls the statistics
            page → tables         the texts
            figures, pictures
            manifest              SHA-256 of every file
    verify                        computes the same texts again, from the package alone
"""

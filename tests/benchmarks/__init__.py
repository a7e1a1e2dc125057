"""What a turn costs beside the kernel's own work, the ancestor's way and the libraries' way, measured in one run.

Run by `python -m tests.benchmarks`, or `make bench`. Everything stands in network and mount namespaces of its own.
Each contender is a process of its own, asked in turn within the same rounds; what counts is the ratio of their medians
in one run, never a number of seconds.
"""

"""Composer asks each process for the name of its CPU, by a program that takes a second: here it is asked once.

For processes that are forked from one that has imported this.
"""

import functools

import cpuinfo

cpuinfo.get_cpu_info = functools.cache(cpuinfo.get_cpu_info)
cpuinfo.get_cpu_info()

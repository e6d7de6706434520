"""The real compilers of an H100 and a TPU v5e on a machine without either: what our programs become there.

`python -m tests.accelerators` fetches the compilers, compiles every case, and prints a table. Nothing runs on a device:
kernels, trips, cycles and collectives are read off the compiled text; times and numbers need a card.
"""

"""Devices and processes: the mesh of a sweep, and what processes have to agree on."""

"""Faults put around the worker's ports, and a judge of what came of them.

A case goes through one scene (`scenes`) with one fault (`faults`) or one death (`kill_points`), and
then a clean worker finishes what is left. Everything that happened is in its journal (`history`);
the `oracle` compares it with the branch and the tasks. Nothing in the package knows of any of this.
"""

"""The tasks that are measured: written once, for both frameworks that share their contract.

One task in a module, because perago 0.6.1 takes one module for each task.
"""

"""The steps of an attempt, each a function over the one value they all work on.

A step fills in what it found, or raises what ends the attempt. None of them reports: that is done
once, after the last.
"""

"""The audit during any training: the callback, its trace and its alerts, and the weights it compares with."""

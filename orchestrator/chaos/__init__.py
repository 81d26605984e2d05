"""Faults put on purpose into a person's own job, and what is left of it held against a run that nothing happened to.

``schedule`` says which fault comes when, ``witness`` stands in each worker and notes what it takes, ``injector`` strikes from
the outside, ``evidence`` reads what a run has left, ``findings`` compares, ``suite`` does all of it.
"""

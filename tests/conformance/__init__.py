"""transformers' own test mixins, run on ILA's classes.

The mixins are part of the source distribution of transformers. `upstream.py` has pip fetch the one of the installed
version, once, and supplies stand-ins for the few test files that the distribution leaves out. A package of its own, so
that its conftest and its names cannot take the place of those of the other tests.
"""

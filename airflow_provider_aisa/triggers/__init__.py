"""The deferred forms of the operators."""

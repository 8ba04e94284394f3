"""One module per route of the gateway: a request becomes a call, an answer becomes a typed response.

Nothing else knows what a route's JSON looks like.
"""

"""How bytes travel: every connection has a deadline, a judged address and one rule for proxies."""

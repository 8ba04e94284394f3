"""Many jobs as one: read and checked first, then run side by side, and told in one manifest."""

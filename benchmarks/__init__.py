"""What the provider costs in time, memory and requests, next to the same work written plainly."""

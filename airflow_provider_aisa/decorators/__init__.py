"""TaskFlow's way of writing the operators."""

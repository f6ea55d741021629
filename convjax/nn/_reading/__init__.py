"""A network of any framework read as an expression."""

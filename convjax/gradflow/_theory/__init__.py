"""Mean-field theory of a network at birth: what activations and gradients to expect, and why."""

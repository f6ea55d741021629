"""Mean-field theory of networks at initialization: which activations and gradients to expect."""

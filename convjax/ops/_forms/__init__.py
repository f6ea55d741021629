"""The forms in which a convolution and its two derivatives can be computed.

A form is a module with the pure functions ``forward(x, kernel, geometry)``,
``input_gradient(g, kernel, geometry)`` and ``kernel_gradient(x, g, geometry)``. All but ``_lax``
also say what they serve. ``_choose`` knows them by name.
"""

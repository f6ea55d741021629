"""Networks in several frameworks' ordinary styles, and gradients by the frameworks' own means.

Nothing here knows convjax, except ``same``, which writes one network three times. A framework's
file has its networks, ``NETWORKS`` by name, and ``references``: the norms of every module's output
and of its gradient, and of every parameter's gradient, for the loss ``sum(output * cotangent)``.
"""

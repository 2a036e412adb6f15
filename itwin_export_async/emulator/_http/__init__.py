"""HTTP: routes, the way of a request, and the transports."""

"""The network, as modules."""

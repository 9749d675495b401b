"""Methods that act inside the network. They are attached to any network for the time of a training."""

__all__: list[str] = []

"""How long a forward pass takes, and when a machine is too busy to say."""

"""Custom operators behind the units: a readable reference in plain torch and faster forms of the same function."""

"""Neural implicit frequency filters."""

"""The straightforward forms that units are compared with."""

"""How fast the native and GPU kernels are, and whether they are right."""

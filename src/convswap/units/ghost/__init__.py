"""Ghost features: a convolution, and a whole stage."""

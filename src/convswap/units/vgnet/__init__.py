"""Fixed kernels, half-identity and downsampling blocks of VGNets."""

"""The modulus of complex wavelets, in the stem."""

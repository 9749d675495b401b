"""The unit contract: the bases, their options and their registry.

| file | what it holds |
|---|---|
| `weight`, `feature`, `block` | the three bases a unit derives from, each with the one constructor |
| `options` | `setup`, and what follows from it: signature, storage, repr |
| `start` | standing in for a convolution: `from_conv`, `fresh_like` |
| `state` | loading: the unit's own state, a plain convolution's, anybody else's |
| `folded` | a BatchNorm that somebody else folds into a unit |
| `geometry`, `precision` | the nine arguments of `nn.Conv2d`; constants and copies in float64 |
| `registry`, `checks`, `where` | `register_unit`, what it refuses, and the selection language |

The hooks, by which a unit tells swaps, training and measurements about itself, are on one page: `convswap.hooks`.
"""

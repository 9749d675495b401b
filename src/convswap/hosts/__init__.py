"""What other people's trainers need: one module for each package, loaded only where a user imports it.

| module | for |
|---|---|
| `ultralytics` | a trainer that swaps the network it built; networks that `predict`, `val`, `export` can fuse |
"""

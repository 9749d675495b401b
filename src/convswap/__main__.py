"""`python -m convswap`: the same as the command `convswap`."""

import sys

from .cli import main

sys.exit(main())

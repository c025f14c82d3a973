"""`python -m cgt`."""

import sys

from cgt.cli import main

sys.exit(main())

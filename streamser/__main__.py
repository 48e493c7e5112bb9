"""`python -m streamser`: the same as the console script."""

import sys

from streamser.cli import main

sys.exit(main())

"""`python -m launch` is `brickyard`."""

import sys

from launch.cli import main

sys.exit(main())

"""`python -m launch` is `brickyard`; spark-submit runs this file itself."""

import sys
from pathlib import Path

if sys.path[0] == str(Path(__file__).parent):  # as a script: modules beside it come first, and `train` is one of them
    del sys.path[0]

from launch.cli import main

sys.exit(main())

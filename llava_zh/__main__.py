"""``python -m llava_zh`` is the command ``llava-zh``."""

import sys

from .cli import main

sys.exit(main())

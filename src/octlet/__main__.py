"""`python -m octlet` is the same as `octlet`."""

import sys

from octlet.cli.main import main

sys.exit(main())

"""`python -m scripts.offline [name ...]`: build the small models; `make run` and `make test` begin with this."""

import sys

from scripts.offline.tiny_models import main

main(sys.argv[1:])

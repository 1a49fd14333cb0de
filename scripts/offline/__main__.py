"""`python -m scripts.offline [name ...]`: build the small models; `make run` and `make test` begin with this."""

import sys

from scripts.offline.tiny_models import RECIPES, main
from scripts.profiles import load_profile

if unknown := [name for name in sys.argv[1:] if name not in RECIPES]:
    sys.exit(f"{unknown[0]!r} is no small model; there are {', '.join(RECIPES)}")
try:
    load_profile()
except ValueError as error:  # a COOKBOOK_ variable, named with what would be right
    print(error, file=sys.stderr)
    sys.exit(2)
main(sys.argv[1:])

"""`python -m scripts.offline [name ...]`: build the small models; `make run` and `make test` begin with this."""

import sys

from scripts.offline.tiny_models import RECIPES, main
from scripts.profiles import load_profile, run_program


def build() -> None:
    if unknown := [name for name in sys.argv[1:] if name not in RECIPES]:
        raise ValueError(f"{unknown[0]!r} is no small model; there are {', '.join(RECIPES)}")
    load_profile()
    main(sys.argv[1:])


run_program(build)

"""`python -m scripts.sft_scores rows.jsonl --model ... --out ...`: score a file of SFT rows."""

import sys

from scripts.profiles import load_profile
from scripts.sft_scores.scoring import main

try:
    load_profile()
except ValueError as error:  # a COOKBOOK_ variable, named with what would be right
    sys.exit(str(error))
main()

"""`python -m scripts.sft_scores rows.jsonl --model ... --out ...`: score a file of SFT rows."""

import sys

from scripts.sft_scores.scoring import main

try:
    main()
except (ValueError, OSError) as error:  # a variable, an option, the data or the model, named with what would be right
    print(error, file=sys.stderr)
    sys.exit(2)

"""`python -m scripts.sft_scores rows.jsonl --model ... --out ...`: score a file of SFT rows."""

from scripts.profiles import run_program
from scripts.sft_scores.scoring import main

run_program(main)

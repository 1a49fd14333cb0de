"""`python -m scripts.sft_scores rows.jsonl --model ... --out ...`: score a file of SFT rows."""

from scripts.sft_scores.scoring import main

main()

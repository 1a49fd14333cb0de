"""Speed, measured: our way of doing four things beside the article's way and the libraries' own.

    .venv/bin/python -m bench          the table of ratios, on CPU, one thread     (or: make bench)
    .venv/bin/python -m bench.gpu      the 7B shape on a CUDA device

The slower ways stay here as code, so that anyone can run the comparison again. README.md holds the figures and their limits.
"""

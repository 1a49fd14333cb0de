"""What the Makefile runs: programs around the notebooks. The notebooks import nothing from here."""

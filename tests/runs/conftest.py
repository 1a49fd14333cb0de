"""One thread for each notebook that runs here: pytest has a worker on each core."""

import os

os.environ["COOKBOOK_THREADS"] = "1"

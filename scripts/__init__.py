"""What chapters share. Each package in it belongs to chapters of one subject; `offline` builds what stands in for the Hub."""

import sys

# All programs print names and answers in Chinese. A terminal that has no Chinese shows escapes; it ends no program.
if getattr(sys.stdout, "errors", None) == "strict":
    sys.stdout.reconfigure(errors="backslashreplace")

"""05: questions about a text."""

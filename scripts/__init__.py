"""The shelf: what two notebooks share, or a test must pin."""

"""What chapters share. Each package in it belongs to chapters of one subject; `offline` builds what stands in for the Hub."""

"""The small models and the made-up data: what stands in for the Hub where there is none."""

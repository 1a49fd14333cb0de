"""06: what a model's likelihoods say of SFT rows."""

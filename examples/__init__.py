"""Scripts that run from a clone. Installed as `ila_hf.examples`, with the recipes, the first is `ila-hf train`."""

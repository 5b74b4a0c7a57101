"""The paper's networks: names and structure (`names`), blocks, and `build_model`."""

"""Train networks by recipes: the verb `train`, the loop, one optimizer step, and what a step costs."""

"""The machine that runs the work: choice of device, labels, readings, and what torch needs to know of it."""

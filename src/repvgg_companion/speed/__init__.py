"""Speed: what a device does per second with each network, measured so that a reviewer would accept it."""

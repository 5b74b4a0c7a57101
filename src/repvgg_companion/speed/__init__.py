"""Speed: what a device does per second with each network, measured so that a reviewer would accept it."""

import os

# The profiler that counts memory writes lines about its own start to standard error otherwise; torch reads this when
# it is imported, so it stands before every other module of this folder.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

"""What every test runs under."""

import signal

from hypothesis import settings

# The same examples every time, and no deadline: the machines that run the tests are shared.
settings.register_profile("sharpkit", deadline=None, derandomize=True)
settings.load_profile("sharpkit")

# A run started in the background of a script ignores SIGINT, and what it starts does so too. The tests of
# interruption need the default.
signal.signal(signal.SIGINT, signal.default_int_handler)

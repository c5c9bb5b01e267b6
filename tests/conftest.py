"""What every test runs under."""

from hypothesis import settings

# The same examples every time, and no deadline: the machines that run the tests are shared.
settings.register_profile("sharpkit", deadline=None, derandomize=True)
settings.load_profile("sharpkit")

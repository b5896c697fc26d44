"""The one exception that a user's input can cause: what is wrong, where, and how to mend it."""


class UserError(Exception):
    """A mistake in a config, a path or the environment, found before anything compiles.

    The command line prints the message without a traceback and exits with code 2.

    Args:
      field: what the message is about, as the user writes it (``config.sweep.batch_size``).
      problem: what is wrong, including the offending value.
      remedy: what to do instead.
    """

    def __init__(self, field: str, problem: str, remedy: str):
        self.field, self.problem, self.remedy = field, problem, remedy
        super().__init__(f"{field}: {problem}\n  {remedy}")

"""Errors that are part of the product: one sentence that names the thing, the value and the remedy."""


class QonnxError(Exception):
    """Bad input or a request that cannot be met. The command line prints it and exits with `exit_code`."""

    exit_code = 2


class BoundBroken(QonnxError):
    """The work was done, and a bound that the user set does not hold (or nothing was quantized at all)."""

    exit_code = 1

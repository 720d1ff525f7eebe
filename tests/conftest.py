"""Loaded before any test imports torch, so that the package's settings of threads hold."""

import minimtnlg  # noqa: F401

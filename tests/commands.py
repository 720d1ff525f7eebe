"""The command line in the process of a test."""

import sys

import pytest

from minimtnlg import cli


def call(monkeypatch, capsys, *args):
    """(exit status, stdout, stderr) of `minimtnlg ARGS`, run in this process."""
    monkeypatch.setattr(sys, "argv", ["minimtnlg", *map(str, args)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    out, err = capsys.readouterr()
    return exit_.value.code or 0, out, err

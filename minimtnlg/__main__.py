"""`python -m minimtnlg` is the `minimtnlg` command."""

from minimtnlg.cli import main

main()
